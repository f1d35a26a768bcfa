"""State of an mm model: put it as an attack needs it, and back."""

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.logging import MessageHub
from mmengine.model import is_model_wrapper
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

# By name: mmcv, timm and mmpretrain have DropPath classes of their own.
STOCHASTIC = ('Drop', 'StochasticDepth', 'SpectralNorm')
# They drop by a function, if their own flag says that they train.
DROPPING = (nn.MultiheadAttention, nn.RNNBase)
OVER = 10**9  # epochs or iterations, more than any schedule has
DROPOUTS = (
    'dropout',
    'dropout1d',
    'dropout2d',
    'dropout3d',
    'alpha_dropout',
    'feature_alpha_dropout',
)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the model that is deployed, without what runs or trains it.

    That is DDP and other wrappers of mmengine, torch.compile, and wrappers for training
    that name the model in them ``deployed``.
    """
    model = without_runners(model)
    while isinstance(getattr(model, 'deployed', None), nn.Module):
        model = without_runners(model.deployed)
    return model


def without_runners(model: nn.Module) -> nn.Module:
    """Return the model inside DDP, other wrappers of mmengine, and torch.compile."""
    while is_model_wrapper(model) or hasattr(model, '_orig_mod'):
        model = getattr(model, '_orig_mod', None) or model.module
    return model


def task_of(kind: type) -> str:
    """Task of a class of models: ``'classification'`` or ``'detection'``.

    Args:
        kind: The class, without wrappers. What is no classifier of mmpretrain is asked
            as a detector is.
    """
    # By name, for mmpretrain need not be installed where detectors are attacked.
    names = [f'{base.__module__}.{base.__name__}' for base in kind.__mro__]
    theirs = [name for name in names if name.startswith('mmpretrain.')]
    classifies = any('BaseClassifier' in name for name in theirs)
    return 'classification' if classifies else 'detection'


def device_of(model: nn.Module) -> torch.device:
    """Device of a model, that of its first parameter."""
    return next(model.parameters()).device


def autocast_dtype(device: str) -> torch.dtype | None:
    """Precision of mixed precision on a kind of device; ``None`` where it is off.

    Example:
        >>> with torch.autocast('cpu', torch.bfloat16):
        ...     autocast_dtype('cpu')
        torch.bfloat16
    """
    if hasattr(torch, 'get_autocast_dtype'):  # from torch 2.4 on
        on = torch.is_autocast_enabled(device)
        return torch.get_autocast_dtype(device) if on else None
    if device == 'cpu':
        on, kind = torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    else:
        on, kind = torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()
    return kind if on else None


def autocast_off(device: str) -> torch.autocast:
    """Compute in the precision that tensors have, also within mixed precision."""
    return torch.autocast(device, enabled=False)


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


def _stays_still(name: str, module: nn.Module) -> bool:
    """Whether a module must not be in train mode while losses are taken."""
    # Heads branch on the flag; backbones do not but for TridentNet's: it would train
    # three branches, and predicts by one.
    part = name.partition('.')[0]
    kind: Any = type(module)
    return part in ('backbone', 'neck') or _is_still_kind(kind)


@cache
def _is_still_kind(kind: type[nn.Module]) -> bool:
    name = kind.__name__
    return (
        name.startswith('Trident')
        or issubclass(kind, (_NormBase, *DROPPING))
        or any(word in name for word in STOCHASTIC)
    )


@contextmanager
def training_flags(model: nn.Module, training: bool) -> Iterator[None]:
    """Set every module's flag, and restore each one.

    Heads branch on ``self.training``; in train mode, normalisation with running
    statistics stays in eval mode and nothing is dropped, by modules or by functions,
    so that no buffer changes and the loss is that of the model under test.
    """
    named = list(model.named_modules())
    before = [module.training for _, module in named]
    try:
        for name, module in named:
            flag = training and not _stays_still(name, module)
            if module.training != flag:  # nn.Module is slow to set
                module.training = flag
        with no_dropout():
            yield
    finally:
        for (_, module), flag in zip(named, before):
            if module.training != flag:
                module.training = flag


@contextmanager
def differentiable(device: torch.device) -> Iterator[None]:
    """Switch gradients on, mixed precision off; keep all global random states."""
    devices = [device] if device.type == 'cuda' else []
    states = random.getstate(), np.random.get_state()
    try:
        with (
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            torch.random.fork_rng(devices),
        ):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def replaced(owner: nn.Module | ModuleType, name: str, function: Any) -> Iterator[None]:
    """Replace ``owner.name``, a method as a rule, and put back what was there.

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


@contextmanager
def no_dropout() -> Iterator[None]:
    """Let the functions of ``torch.nn.functional`` drop nothing.

    Some modules call them with their own training flag, which says nothing else than
    that heads are to give losses.
    """

    def keep(x: Any, *args: Any, **kwargs: Any) -> Any:
        return x

    attend = F.scaled_dot_product_attention

    def attend_to_all(
        query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kw: Any
    ) -> Any:
        kw.pop('dropout_p', None)
        return attend(query, key, value, attn_mask, 0.0, *args[1:], **kw)

    with ExitStack() as stack:
        for name in DROPOUTS:
            stack.enter_context(replaced(F, name, keep))
        stack.enter_context(replaced(F, 'scaled_dot_product_attention', attend_to_all))
        yield


@contextmanager
def single_rank() -> Iterator[None]:
    """Let losses see no other rank.

    Heads divide by a number of positives that they average over all ranks
    (``reduce_mean``): the loss of an image would depend on what other ranks attack at
    the moment, and wait for ranks that attack nothing.
    """
    if not dist.is_available():
        yield
        return
    answers: dict[str, Callable] = {
        'is_initialized': lambda: False,
        'get_world_size': lambda group=None: 1,
        'get_rank': lambda group=None: 0,
        'all_reduce': lambda *args, **kwargs: None,
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(replaced(dist, name, answer))
        yield


@contextmanager
def finished_training() -> Iterator[None]:
    """Let losses that ask how far training is hear that it is over.

    Some heads begin with another assignment of targets or a warm-up, by the epoch or
    iteration that mmengine's MessageHub knows: in a test of a trained model it knows
    none. During training it is left as it is.
    """
    hub = MessageHub.get_current_instance()
    missing = [key for key in ('epoch', 'iter') if hub.get_info(key) is None]
    try:
        for key in missing:
            hub.update_info(key, OVER)
        yield
    finally:
        for key in missing:
            hub.runtime_info.pop(key, None)


@cache
def _has_accelerator() -> bool:
    """Whether torch has another generator than the CPU's to seed."""
    kinds = ('cuda', 'mps', 'xpu', 'npu', 'mlu', 'musa')
    modules = [getattr(torch, kind, None) for kind in kinds]
    return any(m.is_available() for m in modules if hasattr(m, 'is_available'))


def seed_all(seed: int) -> None:
    """Seed the global generators that a loss may draw from: torch, numpy, Python."""
    if _has_accelerator():
        torch.manual_seed(seed)
    else:  # ten times faster: that one keeps a stack for devices that may come
        torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
