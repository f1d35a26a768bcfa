"""Drop classes as soon as they cannot win: the likeliest class for few passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .likelihood import ClassLikelihood


class Eliminated(NamedTuple):
    """Result of :func:`eliminate`.

    Args:
        logits: Class logits, (N, K): exact between classes that were kept to the last
            level, estimates from fewer levels for the others.
        calls: Passes of the U-Net that each image took, (N,), whole numbers.
    """

    logits: Tensor
    calls: Tensor


@dataclass(frozen=True)
class Elimination:
    """When a class is dropped.

    Classes see the same noise, so their errors are compared pair by pair: a class is
    dropped when its error is above that of the best class by more than the upper end
    of a one-sided confidence interval of the mean difference (normal, with the
    correction for a finite number of levels, divided among the classes). Levels come
    in an order in which each beginning is spread over all of them.

    Args:
        confidence: Of all comparisons with the best class at one time.
        min_levels: Levels before any class is dropped.
        step: Levels between two looks.

    Raises:
        ValueError: If a setting makes no sense.
    """

    confidence: float = 0.95
    min_levels: int = 8
    step: int = 2

    def __post_init__(self) -> None:
        if not 0.5 < self.confidence < 1:
            raise ValueError(
                f'confidence={self.confidence} must be above 0.5 and below 1.'
            )
        if self.min_levels < 2 or self.step < 1:
            raise ValueError(
                f'min_levels={self.min_levels} must be at least 2 and step='
                f'{self.step} at least 1: a spread needs two levels.'
            )

    def deviations(self, num_classes: int) -> float:
        """Return the width of the interval in standard errors."""
        share = (1 - self.confidence) / max(num_classes - 1, 1)
        return torch.special.ndtri(torch.tensor(1 - share, dtype=torch.float64)).item()


def spread_order(count: int) -> list[int]:
    """Order levels so that each beginning is spread over all (van der Corput).

    Example:
        >>> spread_order(8)
        [0, 4, 2, 6, 1, 5, 3, 7]
    """
    bits = max(count - 1, 1).bit_length()
    numbers = (int(f'{i:0{bits}b}'[::-1], 2) for i in range(2**bits))
    return [number for number in numbers if number < count]


@torch.no_grad()
def eliminate(
    likelihood: ClassLikelihood, x: Tensor, rule: Elimination | None = None
) -> Eliminated:
    """Find the likeliest class of images by few passes (successive elimination).

    Args:
        likelihood: Whose ``class_logits`` are approximated; with one pass for all
            classes there is nothing to save.
        x: What noise is added to, (N, C, H, W).
        rule: When a class is dropped.

    Raises:
        ValueError: If the prior is a multi-head one.

    Example:
        >>> from mmdiff.diffusion import DiffusionModel, choose_levels
        >>> source = dict(type='UNet2DModel', block_out_channels=(4, 8),
        ...     down_block_types=('DownBlock2D',) * 2, sample_size=16,
        ...     up_block_types=('UpBlock2D',) * 2, norm_num_groups=2,
        ...     num_class_embeds=3)
        >>> model = DiffusionModel.from_pretrained(source)
        >>> likelihood = ClassLikelihood(model, choose_levels(model, 8))
        >>> eliminate(likelihood, torch.zeros(1, 3, 16, 16)).logits.shape
        torch.Size([1, 3])
    """
    if likelihood.multihead:
        raise ValueError(
            'A multi-head prior predicts for all classes in one pass, and elimination '
            'saves nothing: leave it out.'
        )
    likelihood.model.check_images(x)
    race = _Race(likelihood, x, rule or Elimination())
    while race.undecided.any():
        race.advance()
    return race.result()


class _Race:
    """Errors of the classes that are left, level by level."""

    def __init__(
        self, likelihood: ClassLikelihood, x: Tensor, rule: Elimination
    ) -> None:
        self.likelihood, self.x, self.rule = likelihood, x, rule
        self.draws = likelihood.draw()
        count = len(likelihood.levels)
        self.order = torch.tensor(spread_order(count))
        weights = torch.tensor(likelihood.levels.weights, dtype=torch.float64)
        self.weights = weights[self.order]
        shape = len(x), likelihood.num_classes, count
        # Weighted errors, in the order of the levels.
        self.errors = torch.zeros(shape, dtype=torch.float64)
        self.used = torch.zeros(shape[:2], dtype=torch.long)
        self.left = torch.ones(shape[:2], dtype=torch.bool)
        self.position = 0

    @property
    def undecided(self) -> Tensor:
        """Images with several classes and levels left, (N,)."""
        several = self.left.sum(1) > 1
        return several & (self.position < len(self.order))

    def advance(self) -> None:
        """Run the classes that are left through the next levels."""
        size = self.rule.step if self.position else self.rule.min_levels
        stop = min(self.position + size, len(self.order))
        racing = self.left & self.undecided[:, None]
        image, label = racing.nonzero().unbind(1)
        numbers = torch.arange(self.position, stop)
        # Noises are drawn level by level, which must rise.
        rising = numbers[self.order[numbers].argsort()]
        place = rising.repeat_interleave(len(image))
        images, labels = image.repeat(len(rising)), label.repeat(len(rising))
        levels = self.order[place]
        errors = self.likelihood.pair_errors(self.x, self.draws, levels, images, labels)
        weighted = errors.cpu().double() * self.weights[place]
        self.errors[images, labels, place] = weighted
        self.used[racing] = self.position = stop
        self._drop(racing)

    def _drop(self, racing: Tensor) -> None:
        """Drop the classes of some images that are surely behind the best."""
        n, total = self.position, len(self.order)
        seen = self.errors[..., :n]
        means = seen.mean(2).masked_fill(~self.left, torch.inf)
        best = means.argmin(1)
        behind = seen - seen[torch.arange(len(best)), best][:, None]
        # Of all levels nothing is uncertain: the finite population's correction.
        spread = behind.std(2) / n**0.5 * (1 - n / total) ** 0.5
        width = self.rule.deviations(self.left.shape[1]) * spread
        surely = (behind.mean(2) > width) & racing
        self.left &= ~surely

    def result(self) -> Eliminated:
        """Give logits with the winner in front, and the number of passes."""
        total = len(self.order)
        means = self.errors.sum(2) / self.used
        best = means.masked_fill(~self.left, torch.inf).argmin(1)
        images = torch.arange(len(best))
        winner = self.errors[images, best][:, None]
        place = torch.arange(total)
        common = (place < self.used[..., None]) * (self.errors - winner)
        behind = common.sum(2) / self.used * total
        top = -(means[images, best] * total)[:, None]
        logits = (top - behind).to(self.x)
        # What was dropped stays behind, also where its own levels flattered it.
        top = logits[images, best][:, None]
        below = torch.nextafter(top, torch.full_like(top, -torch.inf))
        dropped = ~self.left.to(logits.device)
        logits = torch.where(dropped, logits.minimum(below), logits)
        return Eliminated(logits, self.used.sum(1))
