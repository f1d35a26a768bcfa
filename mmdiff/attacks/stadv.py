"""Spatially transformed images: pixels move, their values do not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from mmdiff.registry import ATTACKS

from .flow import displace, lengths, random_flow, roughness, shorten
from .iterative_attack import GradientAttack, Trace, check_step_size
from .result import AttackStats

# Adam's decays of the first and the second moment (Kingma and Ba 2015).
BETAS = (0.9, 0.999)


@dataclass
class FlowTrace(Trace):
    """An image on its way, and the flow that displaces it.

    Args:
        flow: Displacements at the iterate, (2, H, W), in pixels.
        best_flow: Those of the iterate of highest objective so far.
        mask: Pixels that may change, (H, W), bool; ``None``: all.
        first, second: Adam's moments.
    """

    flow: Tensor | None = None
    best_flow: Tensor | None = None
    mask: Tensor | None = None
    first: Tensor | float = 0.0
    second: Tensor | float = 0.0

    def see(self, loss: float) -> None:
        if loss > self.best_loss:
            self.best_flow = self.flow
        super().see(loss)


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class StAdv(GradientAttack[FlowTrace]):
    """Displace pixels (Xiao et al. 2018, "Spatially Transformed Adversarial Examples").

    Each pixel gets the value that the image has a little aside, by bilinear
    interpolation. Adam ascends ``objective - smoothness * roughness``, of the flow of
    displacements; after each step those longer than ``eps`` are cut to it. So ``eps``
    is a budget, unlike in the paper, where the weight alone bounds flows; and the paper
    optimises by L-BFGS. The change of pixel values follows from the image: a report
    names it beside the longest displacement.

    Boxes of a detector stay where they are: displacements are to be small beside them.

    Args:
        eps: Longest displacement, in pixels of the image that the model is given.
        smoothness: Weight of the roughness, the mean over pixels of the distance
            between the displacements of neighbours, in pixels. The paper's 0.05 is of
            a sum that counts each pair twice: ``0.1 * H * W`` here, which leaves little
            of most objectives. 0 leaves the largest choice, and is the strongest. In
            few steps Adam makes rough flows whatever the weight, and the iterate of
            highest objective that is kept is one of them.
        step_size: Adam's learning rate, in pixels; ``None``: it falls linearly from
            ``eps / 2`` to ``eps / 2 / steps``.
        random_start: Start at random displacements instead of none; restarts after the
            first always do.
        norm: ``'flow'``, no other.
        steps, objective, restarts, restart_offset, eot, proposals, source, keep_best,
            quantize, mask, seed: See :class:`GradientAttack`.

    Raises:
        ValueError: For arguments out of range, or another norm.

    Example:
        >>> attack = StAdv(eps=1, steps=20)
        >>> str(attack.budget), attack.name
        ('Flow 1 px', 'stadv')
    """

    eps: float | None = field(default=1, kw_only=False)
    norm: str = 'flow'
    smoothness: float = 0.01
    step_size: float | None = None
    random_start: bool = False
    keep_best: bool | None = None
    norms: ClassVar[tuple[str, ...]] = ('flow',)
    trace_type: ClassVar[type[Trace]] = FlowTrace

    def __post_init__(self) -> None:
        super().__post_init__()
        check_step_size(self.step_size)
        if not self.smoothness >= 0:
            raise ValueError(f'smoothness={self.smoothness} must not be negative.')

    @property
    def name(self) -> str:
        return 'stadv'

    def begin(
        self, x: Tensor, image_id: str, restart: int, mask: Tensor | None
    ) -> FlowTrace:
        flow = x.new_zeros((2, *x.shape[1:]))
        if self.random_start or restart:
            generator = torch.Generator().manual_seed(self.seed_of(image_id, restart))
            flow = random_flow(x, self.budget.radius, generator)
        flow = _within(flow, mask)
        start = displace(x, flow) if flow.any() else x.clone()
        return FlowTrace(x, start, start, flow=flow, best_flow=flow, mask=mask)

    def update(self, trace: FlowTrace, grad: Tensor, loss: float, step: int) -> Tensor:
        assert trace.flow is not None
        flow = trace.flow.detach().requires_grad_()
        with torch.enable_grad():
            # Its slope is that of the objective: the gradient times that of the pixels.
            gain = (displace(trace.clean, flow) * grad).sum()
            mean_roughness = roughness(flow) / flow[0].numel()
            (slope,) = torch.autograd.grad(
                gain - self.smoothness * mean_roughness, flow
            )
        trace.first = BETAS[0] * trace.first + (1 - BETAS[0]) * slope
        trace.second = BETAS[1] * trace.second + (1 - BETAS[1]) * slope.square()
        mean = trace.first / (1 - BETAS[0] ** (step + 1))
        size = (trace.second / (1 - BETAS[1] ** (step + 1))).sqrt()
        # A slope may be tiny and is one all the same: the usual 1e-8 would hide it.
        moved = flow.detach() + self._size(step) * mean / size.clamp(min=1e-30)
        trace.flow = shorten(_within(moved, trace.mask), self.budget.radius)
        return displace(trace.clean, trace.flow)

    def _size(self, step: int) -> float:
        if self.step_size is not None:
            return self.step_size
        return self.budget.radius / 2 * (1 - step / self.steps)

    def settle(
        self, traces: Sequence[FlowTrace], keep_best: bool, stats: AttackStats
    ) -> None:
        for trace in traces:
            flow = trace.best_flow if keep_best else trace.flow
            assert flow is not None
            stats.max_flow = max(stats.max_flow, lengths(flow).max().item())


def _within(flow: Tensor, mask: Tensor | None) -> Tensor:
    """Flow inside a mask, none outside."""
    return flow if mask is None else flow * mask
