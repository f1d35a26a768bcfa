"""Settings of a robust test that are checked before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdet.evaluation import MultiDatasetsEvaluator
from mmengine.evaluator import Evaluator

from mmdiff.attacks import Oracle
from mmdiff.evaluation.results import PROTOCOLS

NO_IMAGES = 'The test set has no images; check its ann_file, data_root and indices.'


def check_settings(protocol: str, indices: int | None, num_images: int) -> None:
    """Complain about settings that no run can have.

    Args:
        protocol: Name of the protocol.
        indices: Number of the first images to take; ``None`` is all.
        num_images: Images of the test set.

    Raises:
        ValueError: For an unknown protocol, no images or a negative number of them.
    """
    if num_images == 0 or indices == 0:
        raise ValueError(NO_IMAGES)
    if protocol not in PROTOCOLS:
        raise ValueError(f'protocol={protocol!r} must be one of {PROTOCOLS}.')
    if indices is not None and indices < 0:
        raise ValueError(f'indices={indices} must be a number of first images.')


def check_evaluations(evaluations: int, skip_fooled: bool) -> None:
    """Complain about a number of evaluations that makes no sense.

    Raises:
        ValueError: For none, or images skipped by some of the evaluations that are to
            measure them.
    """
    whole = isinstance(evaluations, int) and not isinstance(evaluations, bool)
    if not whole or evaluations < 1:
        raise ValueError(f'evaluations={evaluations!r} must be a number of at least 1.')
    if evaluations > 1 and skip_fooled:
        raise ValueError(
            'skip_fooled=True would keep what is lowest by luck of a model that draws; '
            f'leave it out with evaluations={evaluations}.'
        )


def check_classes(oracle: Oracle) -> None:
    """Complain about a model that tells fewer classes than the test set names.

    Raises:
        ValueError: If so.
    """
    try:
        count = oracle.num_classes
    except ValueError:  # no head says
        return
    if count < len(oracle.classes):
        raise ValueError(
            f'The model tells {count} classes and the test set names '
            f'{len(oracle.classes)}; give the config that the model was trained with, '
            'or metainfo=dict(classes=...) of its classes to the test set.'
        )


def name_classes(evaluator: Evaluator, metainfo: Mapping[str, Any]) -> None:
    """Tell an evaluator the classes of the test set, unless it was told one list."""
    known = evaluator.dataset_meta
    several = isinstance(evaluator, MultiDatasetsEvaluator)
    # torch's Subset hides it; parts that differ give one each.
    if not known or (isinstance(known, list) and not several):
        evaluator.dataset_meta = metainfo
