"""Average precision of one image, and of one class."""

from collections.abc import Sequence

import numpy as np
from mmdet.evaluation.functional import average_precision
from mmdet.evaluation.functional.mean_ap import tpfp_default


def _truth(sample, gt_scale: str) -> dict[str, np.ndarray]:
    """Ground truth as mmdet's functions take it, at the scale of the file."""
    scale = sample.metainfo.get('scale_factor', (1, 1)) if gt_scale == 'input' else 1
    found = dict(bboxes_ignore=np.zeros((0, 4)), labels_ignore=np.zeros(0, int))
    for key, end in (('gt_instances', ''), ('ignored_instances', '_ignore')):
        if key in sample:
            for name in ('bboxes', 'labels'):
                found[name + end] = sample.get(key)[name].cpu().numpy()
            found['bboxes' + end] = found['bboxes' + end] / np.resize(scale, 4)
    return found


def _match(found: dict, truth: dict, label: int, **kwargs) -> tuple[np.ndarray, ...]:
    """Scores of one class's detections in an image, which are true, which false."""
    mine = (found['labels'] == label).numpy()
    score = found['scores'].numpy()[mine]
    boxes = np.hstack([found['bboxes'].numpy()[mine], score[:, None]])
    wanted = truth['bboxes'][truth['labels'] == label]
    ignored = truth['bboxes_ignore'][truth['labels_ignore'] == label]
    tp, fp = tpfp_default(boxes, wanted, ignored, **kwargs)
    return score, tp[0], fp[0]


def _matches(found: dict, truth: dict, legacy: bool) -> list[tuple[np.ndarray, ...]]:
    """:func:`_match` of each class that is detected."""
    labels = np.unique(found['labels'].numpy())
    return [_match(found, truth, k, use_legacy_coordinate=legacy) for k in labels]


def _class_ap(
    found: Sequence[dict],
    truths: Sequence[dict],
    label: int,
    eval_mode: str = 'area',
    **kwargs,
) -> float | None:
    """AP of one class over images, as mmdet's ``eval_map`` has it; None: no objects."""
    objects = sum(int((truth['labels'] == label).sum()) for truth in truths)
    if objects == 0:
        return None
    pairs = zip(found, truths)
    matches = [_match(d, truth, label, **kwargs) for d, truth in pairs]
    scores, hits, misses = zip(*matches)
    order = np.argsort(-np.concatenate(scores), kind='stable')
    # In double precision, or the 11 points of recall are missed by a hair.
    tp = np.concatenate(hits)[order].cumsum(dtype=float)
    fp = np.concatenate(misses)[order].cumsum(dtype=float)
    # A detection on an ignored object counts as neither: 0 of 0.
    precision = tp / np.maximum(tp + fp, np.finfo(np.float32).eps)
    return float(average_precision(tp / objects, precision, eval_mode))


def image_ap(
    found: dict, sample, gt_scale: str = 'original', use_legacy_coordinate: bool = False
) -> float:
    """Mean AP at IoU 0.5 over the classes that one image shows, in 0..1.

    An image without objects has ``1 - highest false score``: there detections only
    harm, but for those of ignored ("difficult") objects.

    Args:
        found: ``bboxes`` (K, 4), ``scores``, ``labels`` (K,), tensors on the CPU.
        sample: Data sample with the ground truth.
        gt_scale: Of the ground truth (see :class:`mmdiff.attacks.Attack`).
        use_legacy_coordinate: A box from 0 to 9 is 10 wide, as VOCMetric has it.
    """
    truth, legacy = _truth(sample, gt_scale), use_legacy_coordinate
    if len(truth['labels']) == 0:
        matches = _matches(found, truth, legacy)
        return 1 - max((float((s * fp).max()) for s, _, fp in matches), default=0.0)
    aps = [
        _class_ap([found], [truth], label, use_legacy_coordinate=legacy)
        for label in np.unique(truth['labels'])
    ]
    return float(np.mean(aps))


def image_margin(
    found: dict, sample, gt_scale: str = 'original', use_legacy_coordinate: bool = False
) -> float:
    """Summed scores of true detections at IoU 0.5, less those of false ones.

    Of two results with the same AP on one image, the one with less of this harms the AP
    over many images more: there scores decide what comes first.

    Args:
        found, sample, gt_scale, use_legacy_coordinate: As of :func:`image_ap`.
    """
    matches = _matches(found, _truth(sample, gt_scale), use_legacy_coordinate)
    return float(sum((score * (tp - fp)).sum() for score, tp, fp in matches))


def class_aps(
    found: Sequence[dict],
    samples: Sequence,
    classes: Sequence[str],
    gt_scale: str = 'original',
    **kwargs,
) -> dict[str, float]:
    """AP at IoU 0.5 over all images of every class that they show.

    Args:
        found, samples, gt_scale: As of :func:`image_ap`, of each image.
        classes: Names.
        **kwargs: ``eval_mode`` and ``use_legacy_coordinate`` of mmdet's ``eval_map``.
    """
    truths = [_truth(sample, gt_scale) for sample in samples]
    aps = [_class_ap(found, truths, k, **kwargs) for k in range(len(classes))]
    return {name: ap for name, ap in zip(classes, aps) if ap is not None}
