"""Square attack: random search that needs no gradient."""

import math

import torch
from torch import Tensor

from mmdiff.registry import ATTACKS

from .objective_attack import ObjectiveAttack

# Of 10,000 queries, those after which the squares' area is halved.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@ATTACKS.register_module()
class Square(ObjectiveAttack):
    """Square attack (Andriushchenko et al. 2020, linf): black-box random search.

    Starts from vertical stripes of ``+-eps``; each query paints one square with
    ``+-eps`` per channel, smaller and smaller, and keeps it if the image's objective
    rises. It reads values of the objective only: a defence that fares worse against it
    than against gradients hides them.

    Args:
        eps: Budget in pixel units (8 is 8/255).
        steps: Queries per image.
        p_init: Share of the image that the first square covers.
        **kwargs: See :class:`ObjectiveAttack`.

    Raises:
        ValueError: For arguments out of range, or another norm than linf.

    Example:
        >>> Square(eps=8, steps=100)._share(99)
        0.0015625
    """

    reported = (*ObjectiveAttack.reported, 'p_init', 'queries')

    def __init__(
        self, eps: float = 8, steps: int = 1000, p_init: float = 0.8, **kwargs
    ) -> None:
        super().__init__(eps, steps, **kwargs)
        if self.norm != 'linf':
            raise ValueError(f"Square knows norm='linf' only, not {self.norm!r}.")
        if not 0 < p_init <= 1:
            raise ValueError(f'p_init={p_init} must be above 0 and at most 1.')
        self.p_init = p_init
        self.queries = self.steps * self.restarts

    def _share(self, query: int) -> float:
        """Share of the image that a square covers."""
        done = 10_000 * query / self.steps
        return self.p_init / 2 ** sum(done > after for after in HALVINGS)

    def _signs(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1

    def _paint(self, adv: Tensor, x: Tensor, query: int, generator) -> Tensor:
        """One random square of ``+-eps``."""
        channels, height, width = x.shape
        side = round(math.sqrt(self._share(query) * height * width))
        side = max(1, min(side, height - 1, width - 1))
        top = int(torch.randint(0, height - side + 1, (), generator=generator))
        left = int(torch.randint(0, width - side + 1, (), generator=generator))
        window = ..., slice(top, top + side), slice(left, left + side)
        sign = self._signs((channels, 1, 1), generator).to(x)
        adv = adv.clone()
        adv[window] = x[window] + self.eps * sign
        return self.project(adv, x)

    def search(self, model, images, samples, ids, restart):
        draws = [torch.Generator().manual_seed(self.seed_of(i, restart)) for i in ids]
        best = [
            self.project(
                x + self.eps * self._signs((len(x), 1, x.shape[2]), d).to(x), x
            )
            for x, d in zip(images, draws)
        ]
        losses = self._query(model, best, samples, ids, restart, 0)
        self._record(0, losses)
        for query in range(1, self.steps):
            tried = [
                self._paint(adv, x, query, draw)
                for adv, x, draw in zip(best, images, draws)
            ]
            found = self._query(model, tried, samples, ids, restart, query)
            best = [t if up else b for t, b, up in zip(tried, best, found > losses)]
            losses = torch.maximum(found, losses)
            self._record(query, losses)
        return best, losses.tolist()
