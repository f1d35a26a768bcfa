"""How long a model was trained, as its checkpoint tells."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner


def training_seconds(checkpoint: dict[str, Any]) -> float | None:
    """Seconds of all training iterations that led to a checkpoint of mmengine.

    Reading data is counted; validation, the start of the process and what came before
    ``load_from`` are not. A training that was resumed counts as a whole.

    Args:
        checkpoint: What the file holds.

    Returns:
        ``None`` if the file does not say, as one of bare weights.

    Example:
        >>> buffer = HistoryBuffer([2.0, 0.5], [1, 1])
        >>> training_seconds({'message_hub': {'log_scalars': {'train/time': buffer}}})
        2.5
        >>> training_seconds({'state_dict': {}}) is None
        True
    """
    hub = checkpoint.get('message_hub')
    scalars = hub.get('log_scalars') if isinstance(hub, dict) else None
    times = scalars.get('train/time') if isinstance(scalars, dict) else None
    if not isinstance(times, HistoryBuffer):
        return None
    return round(float(times.data[0].sum()), 1)


class TrainingTimeHook(Hook):
    """Keep the training time of the checkpoint that a runner loads.

    Args:
        seconds: The time, if it is known otherwise: then no checkpoint is asked.

    Example:
        >>> TrainingTimeHook().seconds is None
        True
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds

    @classmethod
    def of(cls, runner: Runner, seconds: float | None) -> TrainingTimeHook:
        """Make one that listens to a runner."""
        hook = cls(seconds)
        runner.register_hook(hook)
        return hook

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if self.seconds is None:
            self.seconds = training_seconds(checkpoint)
