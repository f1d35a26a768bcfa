"""Where an image's own pixels lie in the input that the test pipeline made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Largest value of an image with fractions that is taken for a normalised one.
DARK = 16


@dataclass(frozen=True)
class Region:
    """A rectangle of an input, in pixels.

    Args:
        top, left: First row and column.
        height, width: Size.
    """

    top: int
    left: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """``(height, width)``."""
        return self.height, self.width


@dataclass
class Frame:
    """An input, and the region of it that shows the image.

    What a pipeline pads is no part of the image: an attack sees and changes the region
    only, and a norm is that of the region. Under a mask, whatever is pasted changes the
    pixels inside of it alone: no gradient comes from the others either.

    Args:
        canvas: The whole clean input, (C, H, W).
        region: Where the image is.
        mask: Pixels of the region that may change, (H, W), bool; ``None``: all.
    """

    canvas: Tensor
    region: Region
    mask: Tensor | None = None

    def cut(self) -> Tensor:
        """Return the image's own pixels."""
        return self._window(self.canvas).clone()

    def paste(self, pixels: Tensor) -> Tensor:
        """Return the whole input with other pixels in the region; differentiable."""
        pixels = self.masked(pixels)
        if pixels.shape == self.canvas.shape:
            return pixels
        canvas = self.canvas.clone()
        self._window(canvas).copy_(pixels)
        return canvas

    def masked(self, pixels: Tensor) -> Tensor:
        """Return other pixels of the region, those outside the mask as they were."""
        if self.mask is None:
            return pixels
        return torch.where(self.mask, pixels, self._window(self.canvas))

    @property
    def mask_share(self) -> float:
        """Share of the image's own pixels that may change."""
        return 1.0 if self.mask is None else self.mask.float().mean().item()

    def _window(self, canvas: Tensor) -> Tensor:
        region = self.region
        rows = slice(region.top, region.top + region.height)
        return canvas[:, rows, region.left : region.left + region.width]


def scale_of(meta: Mapping) -> tuple[float, float] | None:
    """Read by how much width and height were scaled; ``None`` if it is not known."""
    scale = meta.get('scale_factor')
    if scale is None:
        return None
    width, height = np.resize(scale, 2).tolist()  # of one, two or four numbers
    return width, height


def image_region(meta: Mapping, shape: tuple[int, int]) -> Region:
    """Find the region of an input that shows the image.

    Padding is taken from what mmdet's transforms leave in the meta information: the
    size before padding is that of the file times ``scale_factor``, at the top left
    (``Pad``), at ``border`` (``RandomCenterCropPad`` in test mode) or behind
    ``pad_param`` (letter boxes of mmyolo).

    Args:
        meta: Meta information of a data sample.
        shape: Height and width of the input.

    Raises:
        ValueError: If the pipeline cut the image and did not say where, or if the meta
            information says too little.
    """
    if meta.get('border') is not None:
        top, bottom, left, right = (int(side) for side in meta['border'])
        # mmdet.testing's inputs have an empty one.
        if bottom > top and right > left:
            region = Region(top, left, bottom - top, right - left)
            original = meta.get('ori_shape')
            if scale_of(meta) is None and region.shape != tuple(original or ())[:2]:
                raise ValueError(
                    'The image was resized before its border was added, and nothing '
                    "says by how much; add 'scale_factor' to the meta_keys."
                )
            return region
    original, scale = meta.get('ori_shape'), scale_of(meta)
    if original is not None and tuple(original[:2]) == tuple(shape) and scale is None:
        return Region(0, 0, *shape)
    if original is None or scale is None:
        raise ValueError(
            f'It cannot be told which of the {shape[1]}x{shape[0]} pixels are the '
            "image and which its padding; add 'ori_shape' and 'scale_factor' to the "
            'meta_keys of PackDetInputs.'
        )
    height, width = round(original[0] * scale[1]), round(original[1] * scale[0])
    top = left = 0
    if meta.get('pad_param') is not None:
        top, left = round(meta['pad_param'][0]), round(meta['pad_param'][2])
    # Rounding of sizes is allowed one pixel.
    if top + height > shape[0] + 1 or left + width > shape[1] + 1:
        raise ValueError(
            f'The test pipeline made {shape[1]}x{shape[0]} pixels of an image of '
            f'{width}x{height}: it cuts images and does not say where, so boxes cannot '
            'be placed; resize or pad them instead.'
        )
    height, width = min(height, shape[0] - top), min(width, shape[1] - left)
    return Region(top, left, height, width)


@dataclass
class ImageGroup:
    """Images of a batch: those that pad to one size are attacked together.

    Args:
        frames: Inputs, and where in them the images are.
        samples: Data samples with ground truth at the scale of the input.
        ids: Names that make the random choices about each image its own.
    """

    frames: list[Frame]
    samples: list
    ids: list[str]

    @property
    def pixels(self) -> list[Tensor]:
        """The clean images without their padding: float, (C, H, W), 0..255."""
        return [frame.cut() for frame in self.frames]

    @property
    def masks(self) -> list[Tensor | None]:
        """Pixels of each image that may change, (H, W), bool; ``None``: all."""
        return [frame.mask for frame in self.frames]

    def take(self, indices: Sequence[int]) -> ImageGroup:
        """Return some of the images."""
        return ImageGroup(
            [self.frames[i] for i in indices],
            [self.samples[i] for i in indices],
            [self.ids[i] for i in indices],
        )


def check_pixels(x: Tensor) -> None:
    """Complain about an input that is not made of pixel values of 0..255.

    Raises:
        ValueError: If it was normalised, divided by 255, or has more than 8 bits.
    """
    if x.numel() == 0:
        raise ValueError('There is an image without pixels; check the test pipeline.')
    # Of unsigned integers torch compares those of 8 bits alone.
    values = x if x.is_floating_point() else x.long()
    low, high = values.min().item(), values.max().item()
    if low >= 0 and high <= 255:
        # Whole values may be a very dark image; fractions up to a few are none.
        if high > DARK or not x.is_floating_point() or bool((x == x.round()).all()):
            return
    raise ValueError(
        f'The images have values of {low:.6g} to {high:.6g} where an attack perturbs '
        'pixel values of 0 to 255; let the data_preprocessor normalise (mean, std), '
        'not the test pipeline, load images with 8 bits, and resize them without '
        'overshoot (bilinear, not bicubic).'
    )
