"""The contract of every mask, and how to name one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdiff.registry import MASKS

from ..oracle import Frame, ImageGroup

# Short names of types, for command lines and configs.
TYPES = {
    'boxes': 'Boxes',
    'background': 'Background',
    'rectangle': 'Rectangle',
    'file': 'FileMask',
}


class Mask(ABC):
    """Pixels that an attack may change; all others stay as they are, bit by bit.

    A subclass is a frozen dataclass in ``mmdiff.MASKS``, and configs name it:
    ``mask=dict(type='MyMask', ...)``. Its ``str`` names it in reports and tells it from
    all other masks: two masks of one name are taken for the same.

    Example:
        >>> from dataclasses import dataclass
        >>> from mmdiff import MASKS
        >>> @MASKS.register_module()
        ... @dataclass(frozen=True)
        ... class EverySecondRow(Mask):
        ...     first: int = 0
        ...
        ...     def __str__(self):
        ...         return f'every second row from {self.first}'
        ...
        ...     def of(self, frame, sample):
        ...         mask = torch.zeros(frame.region.shape, dtype=torch.bool)
        ...         mask[self.first :: 2] = True
        ...         return mask
        >>> from mmdiff.attacks import PGD
        >>> str(PGD(eps=8, mask=dict(type='EverySecondRow', first=1)).budget)
        'Linf 8, mask every second row from 1'
    """

    @abstractmethod
    def __str__(self) -> str:
        """Name that has all settings."""

    @abstractmethod
    def of(self, frame: Frame, sample: Any) -> Tensor:
        """Return which of an image's own pixels may change, (H, W), bool.

        Args:
            frame: The input, and the region of it that shows the image.
            sample: Its data sample, with ground truth at the scale of the input.

        Raises:
            NotApplicable: If there is no such mask for models of this kind.
        """

    def on(self, group: ImageGroup) -> ImageGroup:
        """Return images of which only the pixels in the mask can be changed.

        Raises:
            ValueError: If the mask of an image is not of its shape.
        """
        frames = []
        for frame, sample in zip(group.frames, group.samples):
            mask = torch.as_tensor(self.of(frame, sample))
            if mask.dtype != torch.bool or tuple(mask.shape) != frame.region.shape:
                raise ValueError(
                    f'The mask {self} gives {mask.dtype} of shape {tuple(mask.shape)} '
                    f'for an image of {frame.region.shape}; return bool of (H, W).'
                )
            frames.append(replace(frame, mask=mask.to(frame.canvas.device)))
        return replace(group, frames=frames)


def build_mask(given: Any) -> Mask | None:
    """Build the mask that a config or a command line names.

    Args:
        given: ``None``; a :class:`Mask`; ``'boxes'`` or ``'background'``; four numbers,
            left, top, right and bottom of a rectangle as shares of the image; the name
            of a ``.png`` or ``.npy`` file; or ``dict(type=..., ...)``, where the type
            is a class of ``mmdiff.MASKS`` or one of :data:`TYPES`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: For anything else.

    Example:
        >>> str(build_mask('boxes')), str(build_mask(dict(type='boxes', grow=8)))
        ('boxes', 'boxes+8')
    """
    if given is None or isinstance(given, Mask):
        return given
    config = _config_of(given)
    kind = config.pop('type', None)
    if isinstance(kind, str):
        kind = MASKS.get(TYPES.get(kind, kind))
    if not (isinstance(kind, type) and issubclass(kind, Mask)):
        raise ValueError(
            f'mask={given} has no type of a mask; choose from {tuple(TYPES)}, or '
            'register a class of your own in mmdiff.MASKS.'
        )
    try:
        return kind(**config)
    except TypeError as error:
        raise ValueError(f'mask={given} cannot be built: {error}.') from None


def _config_of(given: Any) -> dict[str, Any]:
    """The config that a short form stands for.

    Raises:
        ValueError: If it is none.
    """
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, str):
        if given in ('boxes', 'background'):
            return {'type': given}
        if Path(given).suffix.lower() in ('.png', '.npy'):
            return {'type': 'file', 'file': given}
    elif isinstance(given, Sequence) and len(given) == 4:
        return {'type': 'rectangle', 'box': given}
    raise ValueError(
        f"mask={given!r} is unknown; take 'boxes', 'background', left,top,right,bottom "
        'as shares of the image, a .png or .npy file, or dict(type=...).'
    )
