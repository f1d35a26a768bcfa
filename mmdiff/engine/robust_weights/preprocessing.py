"""What weights expect of the images: normalisation, and the order of channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Names of normalisations on the command line: mean and std of images in 0..1.
KNOWN = {'imagenet': IMAGENET, 'none': ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))}
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation of images in 0..255.

    Args:
        mean, std: Of each channel, in the order of the channels.
        rgb: Whether channels are RGB, else BGR.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rgb: bool = True

    @classmethod
    def of_unit_range(cls, mean: Any, std: Any) -> Preprocessing:
        """Of RGB images in 0..1, as published models have it."""
        means, stds = (
            tuple(round(255 * float(v), 4) for v in torch.as_tensor(part).flatten())
            for part in (mean, std)
        )
        return cls(means, stds)

    @classmethod
    def of_module(cls, preprocessor: nn.Module) -> Preprocessing:
        """What a preprocessor of mmpretrain or mmdet does with BGR images."""
        mean, std = ([value] * 3 for value in (0.0, 1.0))
        if preprocessor._enable_normalize:
            mean, std = (
                getattr(preprocessor, name).flatten().tolist()
                for name in ('mean', 'std')
            )
        own = getattr(preprocessor, 'to_rgb', None)
        rgb = preprocessor._channel_conversion if own is None else own
        return cls(tuple(mean), tuple(std), bool(rgb))

    def fits(self, other: Preprocessing) -> bool:
        """Whether both do the same."""
        numbers = Tensor([self.mean, self.std]), Tensor([other.mean, other.std])
        same = numbers[0].shape == numbers[1].shape
        close = same and torch.allclose(*numbers, rtol=0, atol=TOLERANCE)
        return close and self.rgb == other.rgb

    def config(self, classifies: bool) -> dict[str, Any]:
        """Arguments of ``ClsDataPreprocessor`` or ``DetDataPreprocessor``."""
        order = 'to_rgb' if classifies else 'bgr_to_rgb'
        return {'mean': [*self.mean], 'std': [*self.std], order: self.rgb}

    def __str__(self) -> str:
        mean, std = ([round(v, 3) for v in part] for part in (self.mean, self.std))
        return f'mean={mean}, std={std}, {"RGB" if self.rgb else "BGR"}'


def take_normalisation(
    state: dict[str, Tensor], source: object
) -> tuple[dict[str, Tensor], Preprocessing | None]:
    """Return the weights of the network, and the normalisation in front of it.

    Two wrappers put one there. MadryLab's ``AttackerModel`` (``robustness/attacker.py``
    of MadryLab/robustness) has ``normalizer.new_mean``, the network as ``model.*``, and
    both once more as ``attacker.*``. ``normalize_model`` of nmndeep/revisiting-at and
    RobustBench/robustbench (``utils_architecture.py``) has ``normalize.mean`` and
    ``model.*``.

    Args:
        state: Weights of the network, or of one of these wrappers.
        source: The file, for messages.

    Raises:
        ValueError: If the two copies of MadryLab's wrapper differ, or there is more.
    """
    state, copies = dict(state), {}
    for name in [name for name in state if name.startswith('attacker.')]:
        own = name.removeprefix('attacker.').replace('normalize.', 'normalizer.', 1)
        copies[own] = state.pop(name)
    for names in (
        ('normalizer.new_mean', 'normalizer.new_std'),
        ('normalize.mean', 'normalize.std'),
    ):
        if not {*names} <= state.keys():
            continue
        odd = [k for k, v in copies.items() if k not in state or not v.equal(state[k])]
        if odd:
            raise ValueError(
                f'{source} has {odd[0]!r} twice, and attacker.* is not the same; it is '
                'no file that the robustness library wrote.'
            )
        given = Preprocessing.of_unit_range(*(state.pop(name) for name in names))
        further = [name for name in state if not name.startswith('model.')]
        if further:
            raise ValueError(
                f'{source} has {further[0]!r} beside the network and its '
                'normalisation, which nothing is known of.'
            )
        return {k.removeprefix('model.'): v for k, v in state.items()}, given
    return {**state, **{f'attacker.{k}': v for k, v in copies.items()}}, None


def agreed(
    in_file: Preprocessing | None, given: str | None, source: object
) -> Preprocessing:
    """Return the normalisation of a file, or the one that the user says.

    Args:
        in_file: What the file says.
        given: ``'imagenet'``, ``'none'`` or ``None``.
        source: The file, for messages.

    Raises:
        ValueError: If neither says, or they differ.
    """
    if given is None:
        if in_file is None:
            raise ValueError(
                f'{source} does not say how its images are normalised; give '
                '--normalization imagenet (ARES, torchvision) or none (RGB in 0..1).'
            )
        return in_file
    if given not in KNOWN:
        raise ValueError(
            f'normalization={given!r} must be one of {", ".join(KNOWN)}, or be left '
            'out.'
        )
    wanted = Preprocessing.of_unit_range(*KNOWN[given])
    if in_file is not None and not in_file.fits(wanted):
        raise ValueError(
            f'{source} itself says {in_file}, and normalization={given!r} is {wanted}; '
            'leave --normalization out.'
        )
    return wanted
