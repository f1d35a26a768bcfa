"""Square attack: random search that needs no gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdiff.registry import ATTACKS

from .iterative_attack import IterativeAttack
from .oracle import ImageGroup, Question

# Of 10,000 queries, those after which the squares' area is halved.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
# Squares that miss the mask are drawn anew, so often at most.
DRAWS = 20


@dataclass(frozen=True)
class Area:
    """Where the squares of one image lie.

    Args:
        mask: Pixels that may change, (H, W), bool.
        top, left, height, width: Smallest rectangle around them, two pixels wide and
            high at least where the image is: a bump needs as many.
    """

    mask: Tensor
    top: int
    left: int
    height: int
    width: int

    @classmethod
    def of(cls, x: Tensor, mask: Tensor | None = None) -> Area:
        """Find the area of an image, (C, H, W), of which a mask leaves something."""
        height, width = x.shape[-2:]
        if mask is None:
            mask = torch.ones((height, width), dtype=torch.bool, device=x.device)
        top, tall = _span(mask.any(1))
        left, wide = _span(mask.any(0))
        return cls(mask, top, left, tall, wide)

    @property
    def window(self) -> tuple:
        """All channels of the rectangle."""
        rows = slice(self.top, self.top + self.height)
        return ..., rows, slice(self.left, self.left + self.width)

    def square(self, side: int, generator: torch.Generator) -> tuple:
        """All channels of a random square that meets the mask, if one is drawn."""
        for _ in range(DRAWS):
            top = int(torch.randint(0, self.height - side + 1, (), generator=generator))
            left = int(torch.randint(0, self.width - side + 1, (), generator=generator))
            top, left = self.top + top, self.left + left
            window = ..., slice(top, top + side), slice(left, left + side)
            if self.mask[window].any():
                break
        return window


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class Square(IterativeAttack):
    """Square attack (Andriushchenko et al. 2020): black-box random search.

    Linf starts from vertical stripes of ``+-eps``; each query paints one square with
    ``+-eps`` per channel, smaller and smaller, and keeps it if the image's objective
    rises. L2 starts from a grid of bumps; each query moves the change of one square
    into a bump in another. It reads values of the objective only: a defence that fares
    worse against it than against gradients hides them.

    Args:
        steps: Queries per image.
        p_init: Share of the image (under a mask: of the smallest rectangle around it)
            that the first square covers.
        eps, objective, restarts, restart_offset, eot, proposals, source, norm,
            quantize, mask, seed: See :class:`IterativeAttack`.

    Raises:
        ValueError: For arguments out of range.

    Example:
        >>> Square(eps=8, steps=100)._share(99)
        0.0015625
    """

    steps: int = 1000
    p_init: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.p_init <= 1:
            raise ValueError(f'p_init={self.p_init} must be above 0 and at most 1.')

    @property
    def queries(self) -> int:
        """Queries per image of all restarts together."""
        return self.steps * self.restarts

    def threat_model(self) -> dict[str, Any]:
        return {**super().threat_model(), 'queries': self.queries}

    def _share(self, query: int) -> float:
        """Share of the image that a square covers."""
        done = 10_000 * query / self.steps
        return self.p_init / 2 ** sum(done > after for after in HALVINGS)

    def _signs(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1

    def _start(
        self, x: Tensor, generator: torch.Generator, area: Area | None = None
    ) -> Tensor:
        area = Area.of(x) if area is None else area
        channels, height, width = x[area.window].shape
        if self.norm == 'linf':
            stripes = self._signs((channels, 1, width), generator).to(x)
            delta = torch.zeros_like(x)
            delta[area.window] = stripes
            return self.budget.project(x + self.eps * delta * area.mask, x)
        delta, side = torch.zeros_like(x), max(2, min(height, width) // 5)
        start = delta[area.window]
        for top in range(0, height - side + 1, side):
            for left in range(0, width - side + 1, side):
                sign = self._signs((channels, 1, 1), generator)
                bump = sign * _bump(side, generator)
                start[:, top : top + side, left : left + side] = bump.to(x)
        delta = delta * area.mask
        return self.budget.project(
            x + delta * (self.eps / delta.norm().clamp(min=1e-12)), x
        )

    def _paint(
        self,
        adv: Tensor,
        x: Tensor,
        query: int,
        generator: torch.Generator,
        area: Area | None = None,
    ) -> Tensor:
        """Change one random square."""
        area = Area.of(x) if area is None else area
        channels, height, width = x[area.window].shape
        side = round(math.sqrt(self._share(query) * height * width))
        side = max(1, min(side, height - 1, width - 1))
        if self.norm == 'l2':
            return self._move(adv, x, max(2, side), generator, area)
        window = area.square(side, generator)
        sign = self._signs((channels, 1, 1), generator).to(x)
        adv = adv.clone()
        painted = x[window] + self.eps * sign
        adv[window] = torch.where(area.mask[window], painted, x[window])
        return self.budget.project(adv, x)

    def _move(
        self,
        adv: Tensor,
        x: Tensor,
        side: int,
        generator: torch.Generator,
        area: Area,
    ) -> Tensor:
        """Add a bump to one square, with the norm of another one's change."""
        delta, channels = adv - x, len(x)
        here, there = (area.square(side, generator) for _ in range(2))
        inside = torch.zeros_like(x, dtype=torch.bool)
        inside[here] = inside[there] = True
        unused = (self.eps**2 - delta.square().sum()).clamp(min=0) / channels
        energy = (delta.square() * inside).sum((1, 2), keepdim=True) + unused
        old = delta[here]
        old = old / old.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
        sign = self._signs((channels, 1, 1), generator)
        new = ((sign * _bump(side, generator)).to(x) + old) * area.mask[here]
        new = new / new.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
        delta[there] = 0
        delta[here] = new * energy.sqrt()
        return self.budget.project(x + delta, x)

    def search(
        self, question: Question, group: ImageGroup, restart: int
    ) -> tuple[list[Tensor], list[float]]:
        images = group.pixels
        draws = [
            torch.Generator().manual_seed(self.seed_of(i, restart)) for i in group.ids
        ]
        areas = [Area.of(x, mask) for x, mask in zip(images, group.masks)]
        best = [self._start(*each) for each in zip(images, draws, areas)]
        highest = question.losses(best, restart, 0)
        question.stats.record_losses(0, highest.sum().item())
        for query in range(1, self.steps):
            painted = [
                self._paint(adv, x, query, draw, area)
                for adv, x, draw, area in zip(best, images, draws, areas)
            ]
            losses = question.losses(painted, restart, query)
            rises = losses > highest
            best = [new if up else old for new, old, up in zip(painted, best, rises)]
            # Not the maximum: one loss that is not a number would end the search.
            highest = torch.where(rises, losses, highest)
            question.stats.record_losses(query, highest.sum().item())
        return best, highest.tolist()


def _span(present: Tensor) -> tuple[int, int]:
    """First place that is present, and how far it is to the last, 2 at least."""
    places = present.nonzero()[:, 0]
    first, last = int(places.min()), int(places.max())
    first = max(0, min(first, len(present) - 2))
    return first, min(max(last - first + 1, 2), len(present))


def _pyramid(height: int, width: int) -> Tensor:
    """Falls from the centre as ``sum_j 1 / j^2``, j from the distance + 1 outwards."""
    rows, columns = (torch.arange(n) - n // 2 for n in (height, width))
    distance = torch.maximum(rows.abs()[:, None], columns.abs())
    terms = 1 / torch.arange(1, int(distance.max()) + 2) ** 2.0
    return terms.flip(0).cumsum(0).flip(0)[distance]


def _bump(side: int, generator: torch.Generator) -> Tensor:
    """A hill beside a valley, (side, side), of norm 1, lying or standing."""
    half = side // 2
    bump = torch.cat([_pyramid(half, side), -_pyramid(side - half, side)])
    lying = torch.randint(0, 2, (), generator=generator).bool()
    return (bump if lying else bump.T) / bump.norm()
