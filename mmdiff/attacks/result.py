"""What an attack hands back: images, final objectives, and an account of its work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a report reads accounts without waiting for torch
    from torch import Tensor

    from .oracle import Frame


@dataclass
class AttackStats:
    """What happened to the images; sums over images unless named otherwise.

    Args:
        images: Images attacked.
        changed: Images of which at least one pixel changed.
        returned_clean: Images that an attack gave back clean although it tried: it does
            so where it fails, or where there is nothing left to do.
        max_delta: Largest change of a pixel value, in 0..255.
        max_l2: Largest L2 norm of a change.
        max_flow: Largest displacement of a pixel, as attacks that displace tell it, of
            any restart.
        max_beyond: Largest distance of a pixel value from all those that displacements
            within the budget can bring there, as a look at the images themselves shows
            (:meth:`mmdiff.attacks.Budget.beyond`).
        pixel_min: Smallest value handed on.
        pixel_max: Largest value handed on.
        mask_empty: Images, not counted above, that a mask leaves no pixel of.
        mask_hidden: Shares of their pixels that masks hide, of these and those above.
        grad_evals: Gradients computed, counted per image.
        zero_grads: Gradients that were all zero.
        nonfinite_grads: Gradients with NaN or infinity.
        queries: Passes without a gradient, counted per image.
        padding_changed: Images that changed where they only pad, as a look at the
            images themselves shows (:mod:`mmdiff.attacks.probes.returned`).
        asked_again: Images whose objective was asked again.
        misreported: Those of them whose objective is not the one that was reported.
        losses: Objective before each step and after the last, by step.
    """

    images: int = 0
    changed: int = 0
    returned_clean: int = 0
    max_delta: float = 0.0
    max_l2: float = 0.0
    max_flow: float = 0.0
    max_beyond: float = 0.0
    pixel_min: float = 255.0
    pixel_max: float = 0.0
    mask_empty: int = 0
    mask_hidden: float = 0.0
    grad_evals: int = 0
    zero_grads: int = 0
    nonfinite_grads: int = 0
    queries: int = 0
    padding_changed: int = 0
    asked_again: int = 0
    misreported: int = 0
    losses: dict[int, float] = field(default_factory=dict)

    def record_images(
        self, clean: Iterable[Tensor], adversarial: Iterable[Tensor]
    ) -> None:
        """Count images and the size of their changes."""
        for x, adv in zip(clean, adversarial):
            delta = adv - x
            self.images += 1
            self.changed += int(delta.abs().max() > 0)
            self.max_delta = max(self.max_delta, delta.abs().max().item())
            self.max_l2 = max(self.max_l2, delta.norm().item())
            self.pixel_min = min(self.pixel_min, adv.min().item())
            self.pixel_max = max(self.pixel_max, adv.max().item())

    def record_masks(self, frames: Iterable[Frame]) -> None:
        """Note how much of each image may change."""
        for frame in frames:
            self.mask_hidden += 1 - frame.mask_share
            self.mask_empty += int(frame.mask_share == 0)

    def record_losses(self, step: int, total: float) -> None:
        """Add the objective of some images at one step."""
        self.losses[step] = self.losses.get(step, 0.0) + total

    def add(self, other: AttackStats) -> None:
        """Add the account of other images to this one."""
        self.images += other.images
        self.changed += other.changed
        self.returned_clean += other.returned_clean
        self.max_delta = max(self.max_delta, other.max_delta)
        self.max_l2 = max(self.max_l2, other.max_l2)
        self.max_flow = max(self.max_flow, other.max_flow)
        self.max_beyond = max(self.max_beyond, other.max_beyond)
        self.pixel_min = min(self.pixel_min, other.pixel_min)
        self.pixel_max = max(self.pixel_max, other.pixel_max)
        self.mask_empty += other.mask_empty
        self.mask_hidden += other.mask_hidden
        self.grad_evals += other.grad_evals
        self.zero_grads += other.zero_grads
        self.nonfinite_grads += other.nonfinite_grads
        self.queries += other.queries
        self.padding_changed += other.padding_changed
        self.asked_again += other.asked_again
        self.misreported += other.misreported
        for step, total in other.losses.items():
            self.record_losses(step, total)

    @classmethod
    def sum(cls, parts: Iterable[AttackStats]) -> AttackStats:
        """Add up several accounts."""
        total = cls()
        for part in parts:
            total.add(part)
        return total


@dataclass
class AttackResult:
    """Result of one attack on one batch.

    Args:
        inputs: Adversarial images, float32 in 0..255, in the container that the batch
            had them in: a list of (C, H, W) or a tensor (N, C, H, W).
        losses: Final objective of each image, as ascended; NaN for images that were
            left out (also by an empty mask) and for attacks without an objective.
        stats: Account of the work.
    """

    inputs: Sequence[Tensor] | Tensor
    losses: list[float]
    stats: AttackStats
