"""What mmdet's metrics of boxes measure, and the ground truth that they read."""

from typing import Any

import numpy as np
from mmdet.evaluation import (
    CityScapesMetric,
    CocoMetric,
    CocoOccludedSeparatedMetric,
    CocoPanopticMetric,
    SemSegMetric,
    VOCMetric,
)

# Metrics that count no boxes, which configs set beside one that does.
MASK_METRICS = (
    CityScapesMetric,
    CocoOccludedSeparatedMetric,
    CocoPanopticMetric,
    SemSegMetric,
)


def kinds_of(metric: Any) -> list[str]:
    """What a metric measures: ``['bbox', 'segm']``, ``['mAP']``."""
    kinds = getattr(metric, 'metrics', getattr(metric, 'metric', None))
    kinds = kinds if isinstance(kinds, list | tuple) else [kinds]
    return [str(kind) for kind in kinds if kind is not None]


def check_measures(metric: Any) -> None:
    """Complain about a metric that is to write files, or tells no mAP.

    Raises:
        ValueError: If so.
    """
    if getattr(metric, 'format_only', False):
        raise ValueError(
            f'{type(metric).__name__} with format_only=True writes detections to a '
            'file and measures nothing; set format_only=False in test_evaluator.'
        )
    items = getattr(metric, 'metric_items', None)
    of_map = 'mAP', 'AP'  # as COCO's metric names it, and LVIS's
    if items is not None and not any(item.startswith(of_map) for item in items):
        raise ValueError(
            f'{type(metric).__name__} with metric_items={list(items)} tells no mAP; '
            "add 'mAP' to its metric_items in test_evaluator."
        )


def check_truth(metric: Any, sample: Any, gt_scale: str) -> None:
    """Complain about a metric that gets no ground truth, or one of another scale.

    Args:
        metric: The metric.
        sample: One of the data samples.
        gt_scale: Scale of boxes in data samples: ``'original'`` or ``'input'``.

    Raises:
        ValueError: If so.
    """
    if type(metric) is CocoMetric and metric._coco_api is None:
        if 'instances' not in sample:
            raise ValueError(
                'CocoMetric has no ground truth: set ann_file in test_evaluator, or '
                "add 'instances' to the meta_keys of PackDetInputs."
            )
    scale = np.resize(sample.metainfo.get('scale_factor', 1), 2)
    moved = gt_scale == 'input' and (scale != 1).any()
    if moved and isinstance(metric, VOCMetric):
        raise ValueError(
            'VOCMetric compares boxes at the scale of the file, and the test pipeline '
            'loads them before Resize: its mAP would be wrong; give Resize, then '
            'LoadAnnotations.'
        )
