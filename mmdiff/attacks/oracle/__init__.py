"""The one place that knows what an attack may ask of a model."""

from torch import nn

from mmdiff.utils.modules import task_of, unwrap

from .base import Oracle
from .frame import Frame, ImageGroup, Region
from .question import Question

__all__ = [
    'Frame',
    'ImageGroup',
    'Oracle',
    'Question',
    'Region',
    'oracle_of',
    'task_of',
]


def oracle_of(model: nn.Module, gt_scale: str = 'original') -> Oracle:
    """Build the oracle of the model's task.

    Args:
        model: A detector of mmdet or a classifier of mmpretrain, or a wrapper (DDP)
            around one. Any other model with ``data_preprocessor`` and ``loss`` is asked
            as a detector is.
        gt_scale: Scale of the ground truth of detectors (see
            :class:`~mmdiff.attacks.oracle.detection.DetectionOracle`).

    Raises:
        ValueError: For a model that cannot be attacked (a tracker, test-time
            augmentation), or an unknown ``gt_scale``.
        TypeError: If it is no model of mmengine.
    """
    from .kinds import behind_shield

    inner = unwrap(model)
    if task_of(type(behind_shield(inner))) == 'classification':
        from .classification import ClassificationOracle

        return ClassificationOracle(inner, gt_scale)
    from .detection import DetectionOracle

    return DetectionOracle(inner, gt_scale)
