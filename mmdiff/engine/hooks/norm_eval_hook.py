"""Normalisation that keeps to its running statistics while a model is tuned."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm

from mmdiff.registry import HOOKS


@HOOKS.register_module()
class NormEvalHook(Hook):
    """Keep all BatchNorm layers in eval mode in training; their weights train.

    What ``norm_eval`` of mmdet's backbones is for a backbone, for the whole model. For
    weights whose normalisation was folded into the convolutions (exports of ONNX), as
    statistics of a batch would be others, and for batches too small for statistics.

    Example:
        >>> NormEvalHook().priority
        'NORMAL'
    """

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Set the mode: loops put the whole model in train mode at each epoch."""
        for module in runner.model.modules():
            if isinstance(module, _BatchNorm) and module.training:
                module.eval()
