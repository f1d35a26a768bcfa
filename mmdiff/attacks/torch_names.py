"""Which attacks of torchattacks there are: their norms and what they hand back.

Nothing is imported from torchattacks: names are checked where it is not installed, too.
"""

from __future__ import annotations

from dataclasses import dataclass

# Its names of what the fields of TorchAttack are called.
EPS = ('eps', 'max_epsilon')
STEPS = ('steps', 'n_queries', 'num_iter_set', 'nb_iter', 'max_iterations')
EOT = ('eot_iter',)
# Further arguments that are sizes of changes, of images in 0..1.
IN_PIXELS = ('alpha', 'delta', 'noise_sd')


@dataclass(frozen=True)
class Kind:
    """What is known of an attack of torchattacks.

    Args:
        norms: Norms it can have, the default first.
        has_budget: Whether it stays within ``eps``; else it looks for a small change.
        returns_clean: Whether it gives the clean image back where it fails.
        reads_gradients: Whether it follows gradients of the model.
        min_classes: Fewest classes of a model that it works on.
        of_probabilities: Whether its loss is the cross-entropy or a divergence.
    """

    norms: tuple[str, ...] = ('linf',)
    has_budget: bool = True
    returns_clean: bool = False
    reads_gradients: bool = True
    min_classes: int = 2
    of_probabilities: bool = False


_OF_PROBABILITIES = (
    'FGSM BIM RFGSM PGD EOTPGD FFGSM TPGD MIFGSM UPGD DIFGSM TIFGSM NIFGSM SINIFGSM '
    'VMIFGSM VNIFGSM PIFGSM PIFGSMPP'
)
_BOTH = ('linf', 'l2')
# Left out: VANILA and GN are no attacks, LGV and MultiAttack take more than a model,
# and JSMA aims at the next of ten classes whatever the model, with a table of all pairs
# of pixel values.
KINDS = {
    **dict.fromkeys(_OF_PROBABILITIES.split(), Kind(of_probabilities=True)),
    'Jitter': Kind(),
    'PGDRS': Kind(),
    'SPSA': Kind(reads_gradients=False),
    'PGDL2': Kind(('l2',), of_probabilities=True),
    'PGDRSL2': Kind(('l2',)),
    'APGD': Kind(_BOTH, returns_clean=True, of_probabilities=True),
    'APGDT': Kind(_BOTH, returns_clean=True, min_classes=4),
    'FAB': Kind(_BOTH, returns_clean=True),
    'Square': Kind(_BOTH, returns_clean=True, reads_gradients=False),
    'AutoAttack': Kind(_BOTH, returns_clean=True, min_classes=4),
    **dict.fromkeys(
        ('CW', 'DeepFool', 'EADEN', 'EADL1', 'SparseFool'),
        Kind(('l2',), has_budget=False, returns_clean=True),
    ),
    **dict.fromkeys(
        ('OnePixel', 'Pixle'),
        Kind(('l2',), has_budget=False, returns_clean=True, reads_gradients=False),
    ),
}
PREFIX = 'torch_'


def kind_of(name: str) -> Kind:
    """Return what is known of an attack.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in KINDS:
        raise ValueError(
            f'torchattacks has no attack {name!r} that is run here; choose one of '
            f'{", ".join(KINDS)}.'
        )
    return KINDS[name]


def name_on_command_line(given: str) -> str | None:
    """Read ``'torch_apgd'`` as ``'APGD'``, in any case; ``None`` without the prefix.

    Raises:
        ValueError: If there is no attack of that name.
    """
    if not given.startswith(PREFIX):
        return None
    short = given.removeprefix(PREFIX)
    named = {name.lower(): name for name in KINDS}.get(short.lower(), short)
    kind_of(named)
    return named


def is_of_probabilities(label: str) -> bool:
    """Whether the loss of ``'torch_pgd'`` of a report is one of probabilities.

    Example:
        >>> is_of_probabilities('torch_pgd'), is_of_probabilities('torch_cw')
        (True, False)
    """
    return label in {PREFIX + k.lower() for k, v in KINDS.items() if v.of_probabilities}


def is_black_box(label: str) -> bool:
    """Whether an attack of a report, ``'torch_square'``, reads no gradients.

    Example:
        >>> is_black_box('torch_square'), is_black_box('torch_apgd')
        (True, False)
    """
    blind = {PREFIX + k.lower() for k, v in KINDS.items() if not v.reads_gradients}
    return label in blind
