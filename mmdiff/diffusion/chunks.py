"""Many passes of a prior, a few at a time, whose gradients take constant memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .base import DiffusionModel


class Recomputed(torch.autograd.Function):
    """A function of images, computed again when its gradient to them is taken.

    It keeps numbers of rows and nothing else. torch's checkpoint leaves small objects
    between the tensors that it frees, so that the heap of a CPU's process grows with
    every chunk; but it alone knows of gradients to parameters.
    """

    @staticmethod
    def forward(
        ctx: Any, errors: Callable[[Tensor, Tensor], Tensor], x: Tensor, rows: Tensor
    ) -> Tensor:
        ctx.errors = errors
        ctx.save_for_backward(x, rows)
        return errors(x, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        x, rows = ctx.saved_tensors
        again = torch.is_grad_enabled()  # for a gradient of this gradient
        with torch.enable_grad():
            x = x if again else x.detach().requires_grad_()
            value = ctx.errors(x, rows)
            (to_x,) = torch.autograd.grad(value, x, grad, create_graph=again)
        return None, to_x, None


def run_chunks(
    model: DiffusionModel,
    errors: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    rows: Tensor,
    chunk_size: int,
    *others: Tensor,
) -> Tensor:
    """Compute rows of errors chunk by chunk; gradients compute each chunk once more.

    Args:
        model: The prior that the errors are of.
        errors: Takes ``x`` and some of the rows.
        x: Images.
        rows: Numbers of noised images, (R,).
        chunk_size: Most rows at a time.
        *others: What ``errors`` depends on beside images and parameters.

    Returns:
        What ``errors`` returns, along its first axis.

    Raises:
        ValueError: If ``chunk_size`` is below 1.
    """
    check_chunk_size(chunk_size)
    chunks = rows.split(chunk_size)
    if len(chunks) == 1 or not torch.is_grad_enabled():
        return torch.cat([errors(x, chunk) for chunk in chunks])
    wanted = any(one.requires_grad for one in (*model.parameters(), *others))
    draws = any(module.training for module in model.modules())
    if wanted or draws or _is_mixed(x.device.type):
        # torch's checkpoint knows of other gradients, dropout and mixed precision.
        return torch.cat(
            [checkpoint(errors, x, chunk, use_reentrant=False) for chunk in chunks]
        )
    return torch.cat([Recomputed.apply(errors, x, chunk) for chunk in chunks])


def _is_mixed(device: str) -> bool:
    """Whether autocast is on."""
    if hasattr(torch, 'get_autocast_dtype'):  # from torch 2.4 on
        return torch.is_autocast_enabled(device)
    return torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()


def check_chunk_size(chunk_size: int) -> None:
    """Complain about chunks of nothing.

    Raises:
        ValueError: If ``chunk_size`` is below 1.
    """
    if chunk_size < 1:
        raise ValueError(f'chunk_size={chunk_size} must be at least 1.')
