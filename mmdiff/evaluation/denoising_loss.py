"""Held-out loss of a prior in training."""

from collections.abc import Sequence

from mmengine.evaluator import BaseMetric

from mmdiff.registry import METRICS


@METRICS.register_module()
class DenoisingLoss(BaseMetric):
    """Mean held-out loss per noise level, and over all of them (``mean``).

    Takes what :class:`DiffusionPretrainer` gives in validation.

    Example:
        >>> metric = DenoisingLoss()
        >>> metric.process(None, [{'t_0': 1.0}, {'t_0': 3.0}])
        >>> metric.evaluate(2)
        {'held_out/t_0': 2.0, 'held_out/mean': 2.0}
    """

    # Not *loss*: mmengine's logs would average it over past validations.
    default_prefix = 'held_out'

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        levels = {k: sum(r[k] for r in results) / len(results) for k in results[0]}
        return {**levels, 'mean': sum(levels.values()) / len(levels)}
