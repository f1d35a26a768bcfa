"""Attacks of torchattacks on classifiers, in pixel units, under the same promises."""

from __future__ import annotations

import inspect
import math
from abc import ABCMeta
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from mmdiff.registry import ATTACKS
from mmdiff.utils.modules import seed_all, training_flags

from .attack import Attack
from .budget import check_count
from .errors import NotApplicable
from .oracle import ImageGroup, Oracle
from .result import AttackStats
from .torch_logits import Logits
from .torch_names import EOT, EPS, IN_PIXELS, KINDS, STEPS, Kind, kind_of

MISSING = (
    'torchattacks is not installed; run: pip install --no-deps torchattacks (without '
    'the flag it downgrades requests and others).'
)
# Targets of the targeted attacks in AutoAttack: the nine most likely wrong classes.
TARGETED_CLASSES = 10
# Queries of Square for each step along gradients: 5,000 for 100 in AutoAttack.
QUERIES_PER_STEP = 50
# What torchattacks raises for settings or models that it did not expect.
THEIR_ERRORS = (
    AssertionError,
    AttributeError,
    IndexError,
    TypeError,
    ValueError,
    ZeroDivisionError,
)


class TakesOptions(ABCMeta):
    """Gathers what is no field of the class in its field ``options``.

    So configs name settings of torchattacks as if they were fields, and an attack is a
    dataclass with the initialiser that it has written. By position come name and eps.
    """

    def __call__(cls, *args: Any, **settings: Any) -> Any:
        settings.update(zip(('name', 'eps'), args, strict=False))
        known = {f.name for f in fields(cast(Any, cls))}
        own = {k: v for k, v in settings.items() if k in known}
        further = {k: v for k, v in settings.items() if k not in known}
        if further:
            own['options'] = {**dict(own.get('options') or {}), **further}
        return super().__call__(**own)


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class TorchAttack(Attack, metaclass=TakesOptions):
    """An attack of the package torchattacks, by its name there, on a classifier.

    It sees the model behind its own preprocessor, as a function of images in 0..1.
    Whatever comes back is clipped to the budget. APGD, APGDT, FAB, Square, AutoAttack,
    and all attacks without a budget give the clean image back where they fail, and
    where the class is wrong already.

    One promise of :class:`Attack` does not hold: torchattacks draws for a whole batch,
    so what is random about an image depends on the images beside it. It is seeded by
    the first image of a batch.

    Args:
        name: Name in torchattacks: one of ``mmdiff.attacks.torch_names.KINDS``.
        eps: Budget in pixel units; 8 for Linf if none is given. CW, DeepFool and others
            that look for the smallest change take none; ``max_l2`` of the account says
            how large theirs was.
        steps: Steps, or queries of black-box search; ``None``: torchattacks' default.
            Of AutoAttack, the steps along gradients: with 100, and 50 queries for each
            of them, it has the settings of its paper, unlike by default.
        eot: Passes that gradients are averaged over, of attacks that do (APGD, APGDT,
            EOTPGD); ``None``: torchattacks' default.
        options: Further arguments of torchattacks, which may also be given by
            themselves: ``TorchAttack('PGD', alpha=2)``. ``alpha``, ``delta`` and
            ``noise_sd`` are in pixel units as well.
        norm: ``'linf'`` or ``'l2'``; empty: the attack's own, Linf of those with both.
        quantize, seed: See :class:`Attack`.
        mask: Refused: torchattacks changes whole images.

    Raises:
        ValueError: For an unknown name, ``eps=0``, a budget that the attack cannot
            have, or settings that it does not take.
        NotApplicable: On running, for a detector, for too few classes, or if
            torchattacks is not installed.

    Example:
        >>> attack = TorchAttack('PGD', eps=8, steps=20, alpha=2)
        >>> attack.budget, attack.threat_model()['alpha']
        (Budget(eps=8, norm='linf', mask=''), 2)
    """

    name: str = ''
    eps: float | None = None
    steps: int | None = None
    eot: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    norm: str = ''
    # Names of arguments that are fields, whatever torchattacks calls them.
    FIELDS: ClassVar = (*EPS, *STEPS, *EOT, 'norm', 'seed', 'model', 'verbose')

    def __post_init__(self) -> None:
        kind = kind_of(self.name)
        self.options = dict(self.options)
        self.norm = self.norm or kind.norms[0]
        if (
            kind.has_budget
            and self.eps is None
            and kind.norms[0] == self.norm == 'linf'
        ):
            self.eps = 8
        self._check_budget(kind)
        super().__post_init__()
        if self.mask is not None:
            raise ValueError(
                f'{self.name} of torchattacks changes whole images; use PGD, APGD or '
                'Square with a mask.'
            )
        for name in ('steps', 'eot'):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        self._take_defaults()

    def _check_budget(self, kind: Kind) -> None:
        """Complain about a norm or a budget that the attack cannot have."""
        if self.norm not in kind.norms:
            raise ValueError(
                f'{self.name} is of the norm {" or ".join(kind.norms)}, not of '
                f'{self.norm}; leave norm out.'
            )
        if not kind.has_budget and self.eps is not None:
            raise ValueError(
                f'{self.name} looks for the smallest change and has no budget; leave '
                f'out eps={self.eps:g}, and read how large changes are (max_l2).'
            )
        if kind.has_budget and self.eps is None:
            raise ValueError(
                f'{self.name} with norm=l2 needs eps, the L2 norm over all values of '
                '0..255: 128 is 0.5 of images in 0..1.'
            )
        if self.eps == 0:
            raise ValueError(
                f'eps=0 leaves {self.name} nothing to do; give eps in pixel units (8 '
                'is 8/255).'
            )

    def _take_defaults(self) -> None:
        """Check the settings against torchattacks' own, where that is installed."""
        try:
            parameters = parameters_of(self.name)
        except NotApplicable:  # on running it is an error
            return
        allowed = [name for name in parameters if name not in self.FIELDS]
        for name in self.options:
            if name not in allowed:
                settings = ', '.join(['eps', 'steps', *allowed])
                raise ValueError(
                    f'{self.name} of torchattacks does not take {name!r}; it takes '
                    f'{settings}.'
                )
        for own, theirs in (('steps', STEPS), ('eot', EOT)):
            names = [name for name in theirs if name in parameters]
            if names and getattr(self, own) is None:
                setattr(self, own, parameters[names[0]].default)
            elif own == 'eot' and not names:
                if (self.eot or 1) > 1:
                    raise ValueError(
                        f'{self.name} of torchattacks averages no passes (eot='
                        f'{self.eot}); use EOTPGD or APGD.'
                    )
                self.eot = None
            elif not names and self.name != 'AutoAttack':
                self.steps = None  # a loop gives one to try

    @classmethod
    def takes(cls, name: str) -> set[str]:
        """Names of all settings that an attack has, for a command line."""
        own = {f.name for f in fields(cls)} - {'name', 'options'}
        try:
            return own | {p for p in parameters_of(name) if p not in cls.FIELDS}
        except NotApplicable:
            return own

    def threat_model(self) -> dict[str, Any]:
        settings = {**super().threat_model(), **self.options}
        for unused in ('name', 'options', *(['eot'] if self.eot is None else [])):
            settings.pop(unused)
        return {**settings, 'attack': f'torch_{self.name.lower()}'}

    def check_applies(self, oracle: Oracle) -> None:
        if oracle.task != 'classification':
            raise NotApplicable(
                f'{self.name} of torchattacks is for classifiers and '
                f'{type(oracle.model).__name__} is a detector; use PGD, APGD or Square.'
            )
        self._check_classes(oracle.num_classes)

    def perturb(
        self, oracle: Oracle, group: ImageGroup, stats: AttackStats
    ) -> tuple[list[Tensor], list[float]]:
        self.check_applies(oracle)
        adversarial = list(group.pixels)
        for indices in _by_shape(adversarial):
            images = torch.stack([adversarial[i] for i in indices])
            labels = torch.cat([group.samples[i].gt_label for i in indices])
            seed = self.seed_of(group.ids[indices[0]], 'torchattacks')
            ends = self._attack(oracle, images, labels.to(images.device), seed, stats)
            for i, end in zip(indices, ends):
                adversarial[i] = end
        return adversarial, [math.nan] * len(adversarial)

    def _attack(
        self,
        oracle: Oracle,
        images: Tensor,
        labels: Tensor,
        seed: int,
        stats: AttackStats,
    ) -> Tensor:
        """Attack images of one size, (N, C, H, W) in 0..255."""
        kind = kind_of(self.name)
        # Where a smallest change is looked for, the loss is flat once it is there.
        model = Logits(oracle, stats, flat_is_zero=kind.has_budget)
        inputs = images / 255
        try:
            seed_all(seed)
            given = self._arguments(oracle.num_classes, seed)
            attack = class_of(self.name)(model, **given)
            self._set_members(attack)
            with training_flags(oracle.model, False):
                ends = attack(inputs, labels).detach()
        except NotApplicable:
            raise
        except THEIR_ERRORS as error:
            settings = {'steps': self.steps, **self.options}
            raise ValueError(
                f'{self.name} of torchattacks failed with {settings} '
                f'({type(error).__name__}: {error}).'
            ) from error
        # Not through 0..1 and back where nothing changed: that would round.
        same = (ends == inputs) | ~ends.isfinite()
        ends = torch.where(same, images, ends * 255)
        if kind.returns_clean and model.passes >= len(images):
            unchanged = (ends == images).flatten(1).all(1)
            stats.returned_clean += int(unchanged.sum())
        return ends

    def _arguments(self, num_classes: int, seed: int) -> dict[str, Any]:
        """Arguments of the attack by torchattacks' names and in its units."""
        eps = None if self.eps is None else self.eps / 255
        own: dict[str, Any] = dict.fromkeys(EPS, eps)
        own.update(dict.fromkeys(STEPS, self.steps))
        own.update(dict.fromkeys(EOT, self.eot))
        own.update(
            norm=self.norm.capitalize(),
            seed=seed,
            n_classes=min(num_classes, TARGETED_CLASSES),
        )
        parameters = parameters_of(self.name)
        taken = {k: v for k, v in own.items() if k in parameters and v is not None}
        for name, value in self.options.items():
            taken[name] = value / 255 if name in IN_PIXELS else value
        if self.name.startswith('EAD') and 'max_iterations' in taken:
            taken['max_iterations'] = max(10, taken['max_iterations'])  # it divides
        return taken

    def _set_members(self, attack: Any) -> None:
        """Give the attacks in AutoAttack their steps, for which it has no argument."""
        if self.name != 'AutoAttack' or self.steps is None:
            return
        for member in attack._autoattack.attacks:
            if hasattr(member, 'n_queries'):
                member.n_queries = QUERIES_PER_STEP * self.steps
            else:
                member.steps = self.steps

    def _check_classes(self, count: int) -> None:
        """Complain about a model with too few classes for a loss of AutoAttack.

        Raises:
            NotApplicable: If there are too few.
        """
        needed = KINDS[self.name].min_classes
        if self.options.get('loss') == 'dlr':
            needed = max(needed, 3)
        if count < needed:
            raise NotApplicable(
                f'{self.name} compares {needed} classes and the model has {count}; use '
                'APGD with its cross-entropy, FAB and Square.'
            )


def class_of(name: str) -> Any:
    """Class of an attack of torchattacks.

    Raises:
        NotApplicable: If torchattacks is not installed.
    """
    try:
        return getattr(import_module('torchattacks'), name)
    except ImportError as error:
        raise NotApplicable(MISSING) from error


def parameters_of(name: str) -> Mapping[str, inspect.Parameter]:
    """Parameters of an attack's initialiser.

    Raises:
        NotApplicable: If torchattacks is not installed.
    """
    return inspect.signature(class_of(name)).parameters


def _by_shape(images: Sequence[Tensor]) -> list[list[int]]:
    """Indices of images of equal size."""
    groups: dict[tuple, list[int]] = {}
    for i, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(i)
    return list(groups.values())
