"""Distributed training by losses that take several steps on a batch."""

from typing import Any

from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import Tensor

from mmdiff.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class ReplayedDataParallel(MMDistributedDataParallel):
    """``MMDistributedDataParallel`` that replays batches as its model's loss asks.

    Needed for FreeAT on several devices, and allowed for any wrapper for training:
    ``model_wrapper_cfg=dict(type='mmdiff.ReplayedDataParallel')``.
    """

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Take the steps on one batch; return what is logged."""
        step = super().train_step
        return self.module.repeat(lambda: step(data, optim_wrapper), optim_wrapper)
