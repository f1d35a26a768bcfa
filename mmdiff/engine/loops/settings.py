"""Settings of a robust test that no run can have."""

from __future__ import annotations

from mmdiff.evaluation.results import PROTOCOLS


def check_settings(
    protocol: str, indices: int | None, evaluations: int, skip_fooled: bool
) -> None:
    """Complain about settings that no run can have.

    Raises:
        ValueError: For an unknown protocol, a negative number of images, no evaluation,
            or images skipped by some of the evaluations that are to measure them.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f'protocol={protocol!r} must be one of {PROTOCOLS}.')
    if indices is not None and indices < 0:
        raise ValueError(f'indices={indices} must be a number of first images.')
    whole = isinstance(evaluations, int) and not isinstance(evaluations, bool)
    if not whole or evaluations < 1:
        raise ValueError(f'evaluations={evaluations!r} must be a number of at least 1.')
    if evaluations > 1 and skip_fooled:
        raise ValueError(
            'skip_fooled=True would keep what is lowest by luck of a model that draws; '
            f'leave it out with evaluations={evaluations}.'
        )
