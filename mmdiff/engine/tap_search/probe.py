"""A fast probe: multinomial logistic regression on features of a frozen prior."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .targets import Targets

# Of the squared weights on standardised features; the best on a fifth of the fit images
# is taken, so that taps of many channels are not punished for overfitting.
PENALTIES = (0.1, 0.01, 0.001, 0.0001)
ROWS_EACH = 32  # locations of objects, and of background, that are fitted of an image
FOLD = 5
ITERATIONS = 100


@dataclass
class Rows:
    """Locations to fit a probe on.

    Args:
        images: Number of the image of each, (R,).
        places: Its location in the image, (R,).
        labels: Its class, (R,).
        weights: What it counts, (R,).
    """

    images: Tensor
    places: Tensor
    labels: Tensor
    weights: Tensor

    @classmethod
    def of(cls, targets: Targets, seed: int) -> Rows:
        """Draw locations; what they count adds up as it did over all locations.

        Args:
            targets: True classes of all images to fit on.
            seed: Seed of the choice.
        """
        generator = torch.Generator().manual_seed(seed)
        chosen: list[tuple[int, Tensor, Tensor]] = []
        for number, (labels, weights) in enumerate(
            zip(targets.labels, targets.weights)
        ):
            background = labels == targets.background
            for kind in (background, ~background):
                places = (kind & (weights > 0)).nonzero()[:, 0]
                if not len(places):
                    continue
                kept = places[torch.randperm(len(places), generator=generator)]
                kept = kept[:ROWS_EACH]
                factor = weights[places].sum() / weights[kept].sum()
                chosen.append((number, kept, weights[kept] * factor))
        counts = torch.tensor([len(places) for _, places, _ in chosen])
        numbers = torch.tensor([number for number, _, _ in chosen])
        images = numbers.repeat_interleave(counts)
        places = torch.cat([places for _, places, _ in chosen])
        return cls(
            images,
            places,
            targets.labels[images, places],
            torch.cat([weights for _, _, weights in chosen]),
        )

    def take(self, features: Tensor) -> Tensor:
        """Features at these locations, (R, C), of maps (N, C, L)."""
        return features[self.images, :, self.places]


def fit_probe(
    features: Tensor, rows: Rows, num_outputs: int, penalty: float | None = None
) -> tuple[nn.Conv2d, float]:
    """Fit a 1x1 convolution that tells classes from features.

    Features are standardised, and the standardisation is then part of the weights. The
    penalty is the one of :data:`PENALTIES` with the lowest loss on a fifth of the
    images, after a fit on the others; then all are fitted.

    Args:
        features: Features of the rows, (R, C).
        rows: Their classes and weights.
        num_outputs: Classes.
        penalty: Penalty to fit with, without looking for one.

    Returns:
        The probe, and the penalty.
    """
    deviation, mean = torch.std_mean(features, 0, correction=0)
    scale = deviation.clamp(min=1e-6 * float(deviation.max().clamp(min=1e-30)))
    values = (features - mean) / scale
    judged = rows.images % FOLD == 0
    start = torch.zeros(num_outputs, features.shape[1] + 1)
    if penalty is None:
        penalty = PENALTIES[0]
        if judged.any() and not judged.all():
            penalty = _best_penalty(values, rows, judged, start)
    fitted = _minimise(values, rows.labels, rows.weights, start, penalty)
    probe = nn.Conv2d(features.shape[1], num_outputs, 1)
    with torch.no_grad():
        weight = fitted[:, :-1] / scale
        probe.weight.copy_(weight[:, :, None, None])
        probe.bias.copy_(fitted[:, -1] - weight @ mean)
    return probe.requires_grad_(False), penalty


def _best_penalty(values: Tensor, rows: Rows, judged: Tensor, start: Tensor) -> float:
    """The penalty whose fit on some images tells the classes of the others best."""
    losses: dict[float, float] = {}
    fitted, others = start, ~judged
    labels, weights = rows.labels, rows.weights
    for penalty in PENALTIES:  # from a strong one on: each fit starts at the last
        fitted = _minimise(
            values[others], labels[others], weights[others], fitted, penalty
        )
        entropy = _entropy(values[judged], labels[judged], fitted)
        losses[penalty] = float((weights[judged] * entropy).sum())
    return min(losses, key=losses.__getitem__)


def _entropy(values: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    logits = values @ weight[:, :-1].T + weight[:, -1]
    return F.cross_entropy(logits, labels, reduction='none')


def _minimise(
    values: Tensor, labels: Tensor, weights: Tensor, start: Tensor, penalty: float
) -> Tensor:
    """Minimise cross-entropy and penalty by L-BFGS; return (K, C + 1), bias last."""
    weight = start.clone().requires_grad_()
    share = weights / weights.sum()
    optimizer = torch.optim.LBFGS(
        [weight],
        max_iter=ITERATIONS,
        history_size=10,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn='strong_wolfe',
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (share * _entropy(values, labels, weight)).sum()
        loss = loss + penalty / 2 * weight[:, :-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach()
