"""State of an mm model: put it as an attack needs it, and back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from mmengine.model import is_model_wrapper
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

# By name: mmcv, timm and mmpretrain have DropPath classes of their own.
STOCHASTIC = ('Dropout', 'DropPath', 'DropBlock')


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DDP and other wrappers of mmengine."""
    while is_model_wrapper(model):
        model = model.module
    return model


def device_of(model: nn.Module) -> torch.device:
    """Device of a model, that of its first parameter."""
    return next(model.parameters()).device


@contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """Take no gradient of any parameter: only the input's is computed."""
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
    """Switch gradients on and mixed precision off; keep the global random state."""
    devices = [device] if device.type == 'cuda' else []
    with (
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.random.fork_rng(devices),
    ):
        yield


@contextmanager
def replaced(owner: nn.Module, name: str, function: Callable) -> Iterator[None]:
    """Replace the method ``owner.name`` by ``function``, and put back what was there.

    What was there is the method of the class, or an attribute that a user had set on
    the instance.
    """
    # In the instance's own dictionary, past nn.Module's setattr: a submodule of that
    # name stays registered and is only hidden.
    own = vars(owner)
    before = {name: own[name]} if name in own else {}
    own[name] = function
    try:
        yield
    finally:
        del own[name]
        own.update(before)


def num_classes(model: nn.Module) -> int:
    """Return the number of classes of a model's final head.

    Raises:
        ValueError: If no head says.
    """
    for name, module in model.named_modules():
        classes = getattr(module, 'num_classes', None)
        if 'head' in name and 'rpn' not in name and isinstance(classes, int):
            return classes
    raise ValueError(f'No head of {type(model).__name__} has num_classes.')
