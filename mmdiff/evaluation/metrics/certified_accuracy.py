"""Accuracy that no attack within a radius can take away, by randomised smoothing."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.evaluator import BaseMetric
from scipy.stats import beta, norm

from mmdiff.registry import METRICS


def lower_bound(successes: int, trials: int, alpha: float) -> float:
    """Return the lower confidence bound of a share (Clopper and Pearson 1934).

    It is the p with ``P(at least so many successes | p) = alpha``.

    Args:
        successes: Number of successes.
        trials: Number of trials.
        alpha: Probability that the true share lies below the bound, at most.

    Example:
        >>> round(lower_bound(100, 100, 0.001), 4), lower_bound(0, 100, 0.001)
        (0.9333, 0.0)
    """
    if successes == 0:
        return 0.0
    return float(beta.ppf(alpha, successes, trials - successes + 1))


def share_interval(
    successes: int, trials: int, level: float = 0.95
) -> tuple[float, float]:
    """Return the confidence interval of a share (Clopper and Pearson 1934).

    Args:
        successes: Number of successes.
        trials: Number of trials.
        level: Probability that the true share lies inside, at least.

    Example:
        >>> low, high = share_interval(0, 100)
        >>> low, round(high, 3)
        (0.0, 0.036)
    """
    tail = (1 - level) / 2
    low = lower_bound(successes, trials, tail)
    return low, 1 - lower_bound(trials - successes, trials, tail)


def certified_radius(votes: int, copies: int, sigma: float, alpha: float) -> float:
    """Return the L2 radius within which a smoothed prediction cannot change.

    ``sigma Phi^-1(p)`` with the lower bound p of the class's share of votes (Cohen et
    al. 2019, "Certified Adversarial Robustness via Randomized Smoothing", Algorithm
    1); 0 where p is at most a half: the classifier abstains.

    Args:
        votes: Votes for the class, which was chosen on other copies.
        copies: Number of noisy copies.
        sigma: Standard deviation of the noise, in pixel units of 0..255.
        alpha: Probability that the certificate is wrong, at most.
    """
    p = lower_bound(votes, copies, alpha)
    if p <= 0.5:
        return 0.0
    return sigma * float(norm.ppf(p))


@METRICS.register_module()
class CertifiedAccuracy(BaseMetric):
    """Share of images that are right whatever changes them within an L2 radius.

    It takes what :class:`SmoothedClassifier` predicts. Each certificate holds with a
    probability of at least ``1 - alpha``. The ends ``_low`` and ``_high`` of a share
    are its 95 % interval over images (Clopper and Pearson 1934).

    Args:
        radii: L2 radii in pixel units: over all values of an image, of 0..255.
        alpha: Probability that an image's certificate is wrong, at most.

    Raises:
        ValueError: If ``alpha`` is no probability or a radius is below 0.

    Example:
        >>> metric = CertifiedAccuracy(radii=[32])
        >>> votes = dict(smoothed_label=1, votes=100, copies=100, noise_sigma=64.0)
        >>> metric.process(None, [dict(gt_label=1, **votes)])
        >>> {name: round(value, 2) for name, value in metric.evaluate(1).items()}
        {'certified/accuracy_32': 100.0, 'certified/accuracy_32_low': 2.5,
         'certified/accuracy_32_high': 100.0, 'certified/abstained': 0.0,
         'certified/abstained_low': 0.0, 'certified/abstained_high': 97.5,
         'certified/mean_radius': 96.03}
    """

    default_prefix = 'certified'

    def __init__(
        self,
        radii: Sequence[float] = (0, 32, 64, 128),
        alpha: float = 0.001,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device, prefix)
        if not 0 < alpha < 1:
            raise ValueError(f'alpha={alpha} must be above 0 and below 1.')
        if any(radius < 0 for radius in radii):
            raise ValueError(f'radii={list(radii)} must be 0 or more.')
        self.radii, self.alpha = tuple(radii), alpha

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Keep radius and correctness of every image.

        Raises:
            ValueError: If predictions are not those of a smoothed classifier.
        """
        for sample in data_samples:
            if 'smoothed_label' not in sample:
                raise ValueError(
                    'CertifiedAccuracy counts votes of noisy copies, and there are '
                    "none; wrap the model in dict(type='mmdiff.SmoothedClassifier')."
                )
            radius = certified_radius(
                sample['votes'], sample['copies'], sample['noise_sigma'], self.alpha
            )
            right = int(sample['gt_label']) == sample['smoothed_label']
            self.results.append((radius, right))

    def compute_metrics(self, results: list[tuple[float, bool]]) -> dict[str, float]:
        """Give percentages, as mmpretrain's accuracy, and the mean radius."""
        count = len(results)
        metrics = {}
        for radius in self.radii:
            # At 0, too, an abstention is not right.
            kept = sum(right and r > 0 and r >= radius for r, right in results)
            metrics.update(_percentage(f'accuracy_{radius:g}', kept, count))
        abstained = sum(r == 0 for r, _ in results)
        metrics.update(_percentage('abstained', abstained, count))
        metrics['mean_radius'] = sum(r for r, right in results if right) / count
        return metrics


def _percentage(name: str, successes: int, trials: int) -> dict[str, float]:
    """Percentage of a share with its interval."""
    low, high = share_interval(successes, trials)
    return {
        name: 100 * successes / trials,
        f'{name}_low': 100 * low,
        f'{name}_high': 100 * high,
    }
