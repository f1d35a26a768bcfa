"""Put a model in the state that an attack needs, and back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

# By name: mmcv, timm and mmpretrain have DropPath classes of their own.
STOCHASTIC = ('Dropout', 'DropPath', 'DropBlock')


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside a DDP wrapper.

    Raises:
        ValueError: For a test-time-augmentation model.
    """
    while is_model_wrapper(model):
        model = model.module
    if isinstance(model, BaseTTAModel):
        raise ValueError(
            'An attack has no one input to perturb under test-time augmentation; run '
            'without --tta (without the TTA model).'
        )
    return model


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient: only the input's is computed."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def training_flags(model: nn.Module, training: bool) -> Iterator[None]:
    """Set every module's flag, and restore each one.

    Heads branch on ``self.training``; in train mode, normalisation with running
    statistics and dropout stay in eval mode, so that no buffer changes and the loss is
    that of the model under test.
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in before:
            still = isinstance(module, _NormBase) or type(module).__name__.startswith(
                STOCHASTIC
            )
            module.training = training and not still
        yield
    finally:
        for module, flag in before:
            module.training = flag


@contextmanager
def differentiable(device: torch.device) -> Iterator[None]:
    """Gradients on, mixed precision off, global random state kept."""
    devices = [device] if device.type == 'cuda' else []
    with (
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.random.fork_rng(devices),
    ):
        yield
