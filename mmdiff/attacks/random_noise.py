"""Noise of an attack's size: the control of every robustness figure."""

import math

import torch

from mmdiff.registry import ATTACKS

from .attack import Attack


@ATTACKS.register_module()
class RandomNoise(Attack):
    """Random noise at the edge of the budget: what an attack must surpass.

    Args:
        eps: Size in pixel units: every pixel value moves by ``+-eps`` (linf), or the
            image moves by ``eps`` in a random direction (l2); then clipped to 0..255.
        norm: ``'linf'`` or ``'l2'``.
        **kwargs: See :class:`Attack`.

    Example:
        >>> RandomNoise(eps=8).threat_model()['attack']
        'randomnoise'
    """

    def __init__(self, eps: float = 8, norm: str = 'linf', **kwargs) -> None:
        super().__init__(eps, norm, **kwargs)
        if eps is None:
            raise ValueError('RandomNoise needs eps, in pixel units (8 is 8/255).')

    def perturb(self, model, images, samples, ids):
        found = []
        for x, image_id in zip(images, ids):
            generator = torch.Generator().manual_seed(self.seed_of(image_id, 'noise'))
            noise = torch.randn(x.shape, generator=generator)
            noise = noise.sign() if self.norm == 'linf' else noise / noise.norm()
            found.append(x + self.eps * noise.to(x))
        return found, [math.nan] * len(images)
