"""Attacks that are broken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmdiff.attacks import APGD, PGD
from mmdiff.attacks.oracle import Frame
from mmdiff.attacks.result import AttackStats
from mmdiff.registry import ATTACKS

STD = 57.7  # by which detectors divide pixel values


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class Descending(PGD):
    """It goes the wrong way."""

    def update(self, trace, grad, loss, step):
        return super().update(trace, -grad, loss, step)


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class Guessing(APGD):
    """It follows no gradient, and keeps the best of its guesses."""

    def update(self, trace, grad, loss, step):
        generator = torch.Generator().manual_seed(step)
        return super().update(
            trace, torch.randn(grad.shape, generator=generator), loss, step
        )


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class Hasty(PGD):
    """All its steps are of the full budget, along the first gradient."""

    def update(self, trace, grad, loss, step):
        if step:
            return trace.adv
        return super().update(trace, grad.roll(17, -1), loss, step)


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class Shy(PGD):
    """It uses a tenth of its budget."""

    def update(self, trace, grad, loss, step):
        adv = super().update(trace, grad, loss, step)
        return trace.clean + (adv - trace.clean) / 10


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class Unbounded(PGD):
    """It ignores its budget."""

    def _finish(self, adv: Tensor, frame: Frame) -> Tensor:
        clean = frame.cut()
        return frame.paste((clean + 3 * (adv - clean)).clamp(0, 255))


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class OffRange(PGD):
    """It leaves the range of pixels."""

    def _finish(self, adv: Tensor, frame: Frame) -> Tensor:
        return super()._finish(adv, frame) - self.eps / 2 - 30


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class Forgetful(PGD):
    """It hands back the images that it began with."""

    def perturb(self, oracle, group, stats):
        _, losses = super().perturb(oracle, group, stats)
        return [x.clone() for x in group.pixels], losses


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class Shuffled(PGD):
    """It hands back the perturbation of another image."""

    def perturb(self, oracle, group, stats):
        adversarial, losses = super().perturb(oracle, group, stats)
        changes = [a - x for a, x in zip(adversarial, group.pixels)]
        changes = [changes[-1], *changes[:-1]]
        return [x + c for x, c in zip(group.pixels, changes)], losses


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class PartTime(PGD):
    """It hands back every third image as it was, with the objective that it found."""

    def perturb(self, oracle, group, stats):
        adversarial, losses = super().perturb(oracle, group, stats)
        adversarial[::3] = [x.clone() for x in group.pixels[::3]]
        return adversarial, losses


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class Early(PGD):
    """It hands back an early iterate, with the objective of the best one."""

    def perturb(self, oracle, group, stats):
        _, losses = super().perturb(oracle, group, stats)
        early, _ = self._early(oracle, group)
        return early, losses

    def _early(self, oracle, group):
        first = PGD(self.eps, steps=2, step_size=self.step_size, seed=self.seed)
        return first.perturb(oracle, group, AttackStats())


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class EarlyHonest(Early):
    """It hands back an early iterate, and says what it is worth."""

    def perturb(self, oracle, group, stats):
        PGD.perturb(self, oracle, group, stats)
        return self._early(oracle, group)


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class Normalised(PGD):
    """Its budget is that of normalised images, divided by 255 once more."""

    def update(self, trace, grad, loss, step):
        adv = super().update(trace, grad, loss, step)
        radius = self.eps / 255 * STD
        return trace.clean + (adv - trace.clean).clamp(-radius, radius)


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class OnPadding(PGD):
    """It changes what the pipeline padded, too."""

    def _finish(self, adv: Tensor, frame: Frame) -> Tensor:
        canvas = super()._finish(adv, frame)
        inside = frame.paste(torch.zeros_like(frame.cut())) == 0
        outside = ~inside & (frame.canvas > 0)
        return torch.where(outside, (canvas + self.eps).clamp(max=255), canvas)
