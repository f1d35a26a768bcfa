"""Normalisation layers: which statistics they use while a model is attacked."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

RUNNING = ('running_mean', 'running_var')


@contextmanager
def batch_statistics(*parts: nn.Module) -> Iterator[None]:
    """Let layers that train normalise by their batch in eval mode, and track nothing.

    Layers that are in eval mode already (``norm_eval`` of mmdet's backbones) keep to
    their running statistics, as training itself does.

    Args:
        *parts: Modules with the layers in them.

    Example:
        >>> import torch
        >>> norm, x = nn.BatchNorm1d(1), torch.tensor([[0.0], [2.0]])
        >>> with batch_statistics(norm):
        ...     norm.eval()(x).flatten().tolist()
        [-0.9999949932098389, 0.9999949932098389]
        >>> norm.running_mean.item()
        0.0
    """
    hidden: list[tuple[nn.Module, dict]] = []
    for part in parts:
        for module in part.modules():
            if isinstance(module, _BatchNorm) and module.training:
                buffers = {name: module._buffers[name] for name in RUNNING}
                hidden.append((module, buffers))
    try:
        for module, _ in hidden:
            # Without running statistics torch takes those of the batch.
            module._buffers.update(dict.fromkeys(RUNNING))
        yield
    finally:
        for module, buffers in hidden:
            module._buffers.update(buffers)
