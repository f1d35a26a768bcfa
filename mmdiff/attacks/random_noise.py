"""Noise of an attack's size: the control of every robustness figure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mmdiff.registry import ATTACKS

from .attack import Attack
from .budget import NORMS
from .oracle import ImageGroup, Oracle
from .result import AttackStats


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class RandomNoise(Attack):
    """Random noise at the edge of the budget: what an attack must surpass.

    Args:
        eps: Size in pixel units: every pixel value moves by ``+-eps`` (linf), or the
            image moves by ``eps`` in a random direction (l2); then clipped to 0..255.
            With ``norm='flow'`` every pixel is displaced by ``eps`` pixels in a random
            direction: the control of attacks that displace pixels.
        norm, quantize, mask, seed: See :class:`Attack`.

    Raises:
        ValueError: Without ``eps``.

    Example:
        >>> RandomNoise(eps=8).threat_model()['attack']
        'random_noise'
    """

    eps: float | None = field(default=8, kw_only=False)
    norms: ClassVar[tuple[str, ...]] = NORMS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps is None:
            raise ValueError('RandomNoise needs eps, in pixel units (8 is 8/255).')

    def perturb(
        self, oracle: Oracle, group: ImageGroup, stats: AttackStats
    ) -> tuple[list[Tensor], list[float]]:
        noisy = []
        for x, image_id, mask in zip(group.pixels, group.ids, group.masks):
            generator = torch.Generator().manual_seed(self.seed_of(image_id, 'noise'))
            noisy.append(x + self.budget.sample_edge(x, generator, mask))
        return noisy, [math.nan] * len(noisy)
