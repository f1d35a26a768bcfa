"""Settings of a robust test that are checked before anything is built."""

from __future__ import annotations

from mmdiff.evaluation.results import PROTOCOLS


def check_settings(protocol: str, indices: int | None) -> None:
    """Complain about settings that no run can have.

    Raises:
        ValueError: For an unknown protocol or a negative number of images.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f'protocol={protocol!r} must be one of {PROTOCOLS}.')
    if indices is not None and indices < 0:
        raise ValueError(f'indices={indices} must be a number of first images.')
