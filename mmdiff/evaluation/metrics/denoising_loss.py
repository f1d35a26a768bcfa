"""Held-out loss of a prior in training."""

from collections.abc import Sequence

from mmengine.evaluator import BaseMetric

from mmdiff.registry import METRICS


@METRICS.register_module()
class DenoisingLoss(BaseMetric):
    """Mean held-out loss per noise level, and over all of them (``mean``).

    It takes what ``DiffusionPretrainer`` gives in validation.

    Example:
        >>> metric = DenoisingLoss()
        >>> metric.process(None, [{'t_0': 1.0}, {'t_0': 3.0}])
        >>> metric.evaluate(2)
        {'held_out/t_0': 2.0, 'held_out/mean': 2.0}
    """

    # Not *loss*: mmengine's logs would average it over past validations.
    default_prefix = 'held_out'

    def process(
        self, data_batch: object, data_samples: Sequence[dict[str, float]]
    ) -> None:
        """Keep the losses of a batch, a dictionary by noise level for every image."""
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[dict[str, float]]) -> dict[str, float]:
        """Average the losses of all images."""
        levels = {
            level: sum(losses[level] for losses in results) / len(results)
            for level in results[0]
        }
        return {**levels, 'mean': sum(levels.values()) / len(levels)}
