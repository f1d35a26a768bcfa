"""Masks at the same place of every image: a rectangle, or pixels from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdiff.registry import MASKS

from ..oracle import Frame
from .base import Mask
from .pixels import inside, is_number

UNITS = ('share', 'pixel')


@MASKS.register_module()
@dataclass(frozen=True)
class Rectangle(Mask):
    """A rectangle at the same place of every image.

    Args:
        box: Left, top, right, bottom.
        unit: ``'share'``: of the image's width and height, 0..1, padding left out;
            ``'pixel'``: of the network's input as the test pipeline gives it, whole
            numbers; what lies outside the image is left out.

    Raises:
        ValueError: If the rectangle is empty or leaves the range of its unit.

    Example:
        >>> str(Rectangle((0, 0.5, 1, 1))), str(Rectangle((0, 0, 64, 32), 'pixel'))
        ('rectangle 0,0.5,1,1', 'rectangle 0,0,64,32 px')
    """

    box: tuple[float, float, float, float]
    unit: str = 'share'

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f'unit={self.unit!r} must be one of {UNITS}.')
        given = self.box
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise ValueError(f'box={given!r} must be left, top, right, bottom.')
        object.__setattr__(self, 'box', tuple(given))
        numbers = len(given) == 4 and all(map(is_number, given))
        if not numbers or not (given[0] < given[2] and given[1] < given[3]):
            raise ValueError(
                f'The rectangle {given} must be left < right and top < bottom: '
                'left, top, right, bottom.'
            )
        if self.unit == 'share' and not (min(given) >= 0 and max(given) <= 1):
            raise ValueError(
                f'The rectangle {given} must be shares of the image, 0 to 1; for '
                "pixels of the input add unit='pixel'."
            )
        if self.unit == 'pixel' and any(side < 0 or side % 1 for side in given):
            raise ValueError(
                f'The rectangle {given} must be whole pixels of the input, from 0; '
                "for shares of the image take unit='share'."
            )

    def __str__(self) -> str:
        sides = ','.join(f'{side:.12g}' for side in self.box)
        return f'rectangle {sides}' + (' px' if self.unit == 'pixel' else '')

    def of(self, frame: Frame, sample: Any) -> Tensor:
        box, region = torch.tensor(self.box, dtype=torch.float64), frame.region
        if self.unit == 'share':
            box = box * torch.tensor([region.width, region.height] * 2)
            box = box + torch.tensor([region.left, region.top] * 2)
        return inside(box[None], frame)


@MASKS.register_module()
@dataclass(frozen=True)
class FileMask(Mask):
    """A mask from a file, stretched to every image (nearest pixel, padding left out).

    Args:
        file: PNG in black (0) and one other grey, or ``.npy`` of two values, one of
            them 0, (H, W): what is not 0 may change.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, has more than two values, or is all 0.
    """

    file: str
    pixels: np.ndarray = field(init=False, repr=False, compare=False)
    digest: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        pixels = _read(Path(self.file))
        object.__setattr__(self, 'pixels', pixels)
        content = f'{pixels.shape}'.encode() + pixels.tobytes()
        digest = hashlib.sha256(content).hexdigest()[:8]
        object.__setattr__(self, 'digest', digest)

    def __str__(self) -> str:
        return f'file {Path(self.file).name} {self.digest}'

    def of(self, frame: Frame, sample: Any) -> Tensor:
        mask = torch.from_numpy(self.pixels)
        if tuple(mask.shape) == frame.region.shape:
            return mask
        stretched = F.interpolate(
            mask[None, None].float(), frame.region.shape, mode='nearest-exact'
        )
        return stretched[0, 0] > 0


def _read(file: Path) -> np.ndarray:
    """Read a mask, (H, W), bool.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no mask.
    """
    if not file.is_file():
        raise FileNotFoundError(f'There is no mask {file}; give a .png or .npy file.')
    try:
        is_array = file.suffix.lower() == '.npy'
        values = np.load(file) if is_array else _read_image(file)
    except (EOFError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f'The mask {file} cannot be read: {error}') from None
    one_number = isinstance(values, np.ndarray) and values.dtype.kind in 'biuf'
    if not one_number or values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(
            f'The mask {file} must have one number for each pixel, an array (H, W).'
        )
    present = np.unique(values)
    if len(present) > 2 or (len(present) == 2 and 0 not in present):
        raise ValueError(
            f'The mask {file} has {len(present)} values; give two: 0 where pixels '
            'stay, another one where they may change.'
        )
    if not values.any():
        raise ValueError(f'The mask {file} is 0 everywhere: no pixel may change.')
    return values != 0


def _read_image(file: Path) -> np.ndarray:
    """Read grey values, (H, W).

    Raises:
        ValueError: For colours and transparency.
        OSError: If it is no image.
    """
    from PIL import Image

    with Image.open(file) as image:
        if 'A' in image.mode or 'transparency' in image.info:
            raise ValueError('it has transparency; save it without alpha.')
        if image.mode in ('1', 'L', 'I', 'I;16', 'F'):
            return np.array(image)
        colours = np.array(image.convert('RGB'))
    if (colours != colours[..., :1]).any():
        raise ValueError('it has colours; save it in black and white.')
    return colours[..., 0]
