"""What a result is worth for a task: the one place that knows boxes from classes.

A new task needs a module with its :class:`Scorer` here, and a line in
:func:`scorer_type`.
"""

from __future__ import annotations

from mmengine.evaluator import Evaluator

from .base import GroundTruth, Scorer, restrict_images

__all__ = ['GroundTruth', 'Scorer', 'restrict_images', 'scorer_of', 'scorer_type']


def scorer_type(task: str) -> type[Scorer]:
    """Class of the scorer of a task.

    Args:
        task: ``'detection'`` or ``'classification'``, as an oracle says
            (:attr:`mmdiff.attacks.Oracle.task`).

    Raises:
        ValueError: For another task.
    """
    if task == 'detection':
        from .detection import DetectionScorer

        return DetectionScorer
    if task == 'classification':
        from .classification import ClassificationScorer

        return ClassificationScorer
    raise ValueError(
        f"task={task!r} has no scorer; there are 'detection' and 'classification'."
    )


def scorer_of(task: str, evaluator: Evaluator, truth: GroundTruth) -> Scorer:
    """Build the scorer of a task.

    Args:
        task: See :func:`scorer_type`.
        evaluator: The runner's evaluator.
        truth: The test set.

    Raises:
        ValueError: For another task, or an evaluator that does not measure it.
    """
    return scorer_type(task)(evaluator, truth)
