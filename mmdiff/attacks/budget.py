"""How far, and where, an attack may move an image: a ball or a flow, pixels, a mask."""

from __future__ import annotations

import math
import numbers
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a report compares budgets without waiting for torch
    import torch
    from torch import Tensor

# Balls of changes of pixel values.
BALLS = ('linf', 'l2')
# And displacements of pixels, whose change of values nothing bounds but the image.
NORMS = (*BALLS, 'flow')


@dataclass(frozen=True)
class Budget:
    """A ball around the clean image, cut to pixel values of 0..255, or a flow.

    All methods take one image of shape (C, H, W). The mask is a name here, by which
    budgets are compared: pixels outside of it are kept where images are put together
    (:class:`mmdiff.attacks.oracle.Frame`).

    Args:
        eps: Radius in pixel units: 8 is 8/255. ``None``: the range of pixel values is
            the only bound. Of a flow, the longest displacement, in pixels of the
            image that the model is given.
        norm: ``'linf'``: largest change of a pixel value; ``'l2'``: Euclidean norm over
            all values of an image; ``'flow'``: largest displacement of a pixel
            (:mod:`mmdiff.attacks.flow`). From images alone no displacement can be
            told: what is projected, rounded and measured here is what all of them
            keep, values within those of the pixels around (:meth:`beyond`).
        mask: Name of the only pixels that may change (``str`` of a
            :class:`mmdiff.attacks.Mask`); empty: all.

    Raises:
        ValueError: For a negative or infinite ``eps`` or an unknown ``norm``.

    Example:
        >>> Budget(4) in Budget(8), Budget(4) in Budget(8, 'l2'), Budget(4) in Budget()
        (True, False, True)
        >>> Budget(4, mask='boxes') in Budget(8), Budget(4) in Budget(8, mask='boxes')
        (True, False)
    """

    eps: float | None = None
    norm: str = 'linf'
    mask: str = ''

    def __post_init__(self) -> None:
        if self.eps is not None and not math.isfinite(self.eps):
            raise ValueError(
                f'eps={self.eps} is no budget; give pixel units (8 is 8/255; 255 '
                'allows any image).'
            )
        if self.eps is not None and self.eps < 0:
            raise ValueError(
                f'eps={self.eps} is negative; give the budget in pixel units (8 is '
                '8/255).'
            )
        if self.norm not in NORMS:
            raise ValueError(f'norm={self.norm!r} is unknown; choose one of {NORMS}.')

    @property
    def radius(self) -> float:
        """``eps``, or infinity if there is none."""
        return math.inf if self.eps is None else self.eps

    @property
    def is_flow(self) -> bool:
        """Whether pixels are displaced, and ``eps`` is how far."""
        return self.norm == 'flow'

    @property
    def unit(self) -> str:
        """What ``eps`` counts, for axes and sentences."""
        return 'displacement, pixels' if self.is_flow else 'pixel values 0 to 255'

    def __contains__(self, other: Budget) -> bool:
        """Whether this budget allows whatever ``other`` allows."""
        within = self.norm == other.norm and other.radius <= self.radius
        return within and self.mask in ('', other.mask)

    def __str__(self) -> str:
        size = 'no budget'
        if self.eps is not None:
            size = f'{self.norm.capitalize()} {self.eps:g}'
            size += ' px' if self.is_flow else ''
        return f'{size}, mask {self.mask}' if self.mask else size

    @property
    def suffix(self) -> str:
        """End of a metric's name: ``_eps4``, ``_l2_eps500``, or nothing."""
        norm = '' if self.norm == 'linf' else f'_{self.norm}'
        return norm if self.eps is None else f'{norm}_eps{self.eps:g}'

    @property
    def place(self) -> str:
        """What a label adds for the mask: ``_boxes``, or nothing."""
        return re.sub('[^0-9A-Za-z.+-]+', '_', f' {self.mask}') if self.mask else ''

    def measure(self, delta: Tensor) -> float:
        """Size of a change in the budget's norm.

        Raises:
            ValueError: Of a flow: a displacement is no size of a change.
        """
        self._check_ball()
        size = delta.abs().max() if self.norm == 'linf' else delta.norm()
        return size.item()

    def project(self, adv: Tensor, clean: Tensor) -> Tensor:
        """Return the nearest image within 0..255 and the ball, or a flow's reach."""
        if self.eps is None:
            return adv.clamp(0, 255)
        if self.eps == 0:
            return clean.clone()
        if self.is_flow:
            return adv.clamp(*reach_of(clean, self.eps))
        if self.norm == 'linf':
            lower = (clean - self.eps).clamp(min=0)
            upper = (clean + self.eps).clamp(max=255)
            return adv.clamp(lower, upper)
        # Clipping to the pixel range moves towards the clean image: still inside.
        return (clean + self.shrink(adv - clean)).clamp(0, 255)

    def beyond(self, adv: Tensor, clean: Tensor) -> float:
        """By how much a value leaves those of a flow's reach; 0 for a ball."""
        if not self.is_flow or self.eps is None:
            return 0.0
        lowest, highest = reach_of(clean, self.eps)
        return max((lowest - adv).max().item(), (adv - highest).max().item(), 0.0)

    def shrink(self, delta: Tensor) -> Tensor:
        """Return the nearest change within the ball (pixel range aside).

        Raises:
            ValueError: Of a flow.
        """
        self._check_ball()
        if self.eps is None:
            return delta
        if self.norm == 'linf':
            return delta.clamp(-self.eps, self.eps)
        return delta * (self.eps / delta.norm().clamp(min=max(self.eps, 1e-12)))

    def round(self, adv: Tensor, clean: Tensor) -> Tensor:
        """Return whole pixel values, as a file holds them, still within the ball.

        Values that rounding would take outside are rounded towards the clean image; a
        clean image of whole values stays in reach.
        """
        rounded = adv.round()
        if self.eps is None:
            return rounded
        if self.is_flow:
            lowest, highest = reach_of(clean, self.eps)
            return rounded.clamp(lowest.ceil(), highest.floor())
        inward = adv.floor().where(adv > clean, adv.ceil())
        if self.norm == 'linf':
            return inward.where((rounded - clean).abs() > self.eps, rounded)
        return inward if (rounded - clean).norm() > self.eps else rounded

    def direction(self, grad: Tensor) -> Tensor:
        """Step of size 1 along which a linear objective rises fastest.

        Raises:
            ValueError: Of a flow.
        """
        self._check_ball()
        if self.norm == 'linf':
            return grad.sign()
        return grad / grad.norm().clamp(min=1e-12)

    def sample(
        self, like: Tensor, generator: torch.Generator, mask: Tensor | None = None
    ) -> Tensor:
        """Draw a change uniformly from the ball (pixel range aside).

        Args:
            like: The image.
            generator: Generator on the CPU.
            mask: Pixels that may change, (H, W), bool; ``None``: all.
        """
        import torch

        if self.is_flow:
            return self._displaced(like, generator, mask, edge=False)
        if self.norm == 'linf':
            noise = torch.rand(like.shape, generator=generator) * 2 - 1
            return self.radius * _cut(noise, mask).to(like)
        noise = _cut(torch.randn(like.shape, generator=generator), mask)
        values = like.numel() if mask is None else len(like) * int(mask.sum())
        radius = torch.rand((), generator=generator) ** (1 / max(values, 1))
        noise = noise * (radius / noise.norm().clamp(min=1e-12))
        return self.radius * noise.to(like)

    def sample_edge(
        self, like: Tensor, generator: torch.Generator, mask: Tensor | None = None
    ) -> Tensor:
        """Draw a change of full size: signs (linf), or a random direction (l2).

        Of a flow, each pixel is displaced by ``eps`` in a direction of its own.

        Args:
            like: The image.
            generator: Generator on the CPU.
            mask: Pixels that may change, (H, W), bool; ``None``: all.
        """
        import torch

        if self.is_flow:
            return self._displaced(like, generator, mask, edge=True)
        noise = _cut(torch.randn(like.shape, generator=generator), mask)
        if self.norm == 'linf':
            return self.radius * noise.sign().to(like)
        return self.radius * (noise / noise.norm().clamp(min=1e-12)).to(like)

    def _displaced(
        self,
        like: Tensor,
        generator: torch.Generator,
        mask: Tensor | None,
        edge: bool,
    ) -> Tensor:
        """Change by displacements drawn at random, pixel by pixel."""
        from .flow import displace, random_flow

        flow = _cut(random_flow(like, self.radius, generator, edge), mask)
        return displace(like, flow) - like

    def _check_ball(self) -> None:
        """Complain about what has no meaning for a flow.

        Raises:
            ValueError: If this is one.
        """
        if self.is_flow:
            raise ValueError(
                f'A budget of displacements ({self}) is no ball of changes of pixel '
                f'values; take norm={" or ".join(BALLS)}.'
            )


def reach_of(clean: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return :func:`mmdiff.attacks.flow.reach`, within 0..255."""
    from .flow import reach

    lowest, highest = reach(clean, eps)
    return lowest.clamp(min=0), highest.clamp(max=255)


def _cut(noise: Tensor, mask: Tensor | None) -> Tensor:
    """Noise inside a mask, 0 outside."""
    return noise if mask is None else noise.where(mask.to(noise.device), 0)


def as_number(eps: Any) -> float:
    """Turn a budget into a plain number: reports are JSON.

    Raises:
        ValueError: If it is none.
    """
    try:
        return float(eps)
    except (TypeError, ValueError):
        raise ValueError(
            f'eps={eps!r} must be one number in pixel units (8 is 8/255).'
        ) from None


def check_count(name: str, value: Any) -> None:
    """Complain about a number of steps, say, that is no whole one above 0.

    Raises:
        ValueError: If so.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f'{name}={value!r} must be a whole number.')
    if value < 1:
        raise ValueError(f'{name}={value} must be at least 1.')
