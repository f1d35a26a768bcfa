"""Dense Adversary Generation: make every proposal show a wrong class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from mmcv.ops import batched_nms
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

from mmdiff.registry import ATTACKS
from mmdiff.utils.modules import training_flags

from .budget import check_count
from .dag_proposals import Proposals, propose
from .errors import GradientBlocked, NotApplicable
from .oracle import Frame, ImageGroup, Oracle
from .result import AttackStats
from .source import SourcedAttack


@ATTACKS.register_module()
@dataclass(eq=False, kw_only=True)
class DAG(SourcedAttack):
    """Dense Adversary Generation (Xie et al. 2017) on detectors of one or two stages.

    Proposals are found once, on the clean image, with a denser NMS. Those that overlap
    an object and show its class are to show another one, drawn per class from the
    classes absent from the image. Each step adds
    ``gamma * g / max|g|``, ``g`` the gradient of the summed differences of target and
    true logits over the proposals not there yet, until no proposal shows its class.

    As published (``eps=None``) nothing bounds the perturbation but the number of steps;
    only the final image is clipped to 0..255. With ``eps`` every step is projected.
    One-stage detectors have no proposals: every anchor point, or every query of a DETR,
    with its clean box takes their place. Where scores are sigmoids, background is a
    class score below the model's ``score_thr``; objectness and centerness do not count.
    Both are taken only where they are what the head itself predicts.

    Args:
        eps: Budget in pixel units, or ``None`` as published.
        gamma: Largest change of a pixel value per step.
        steps: Steps at most (150 as published).
        iou_threshold: Overlap above which the NMS of the proposals drops one.
        max_proposals: Proposals at most.
        active_iou: Overlap with an object above which a proposal is attacked.
        active_score: Score of the object's class above which it is attacked.
        strong_score: A proposal that is best of its neighbours (NMS at 0.35) counts as
            fooled only with this score of its target.
        source, norm, quantize, mask, seed: See :class:`SourcedAttack`.

    Raises:
        ValueError: For arguments out of range.
        NotApplicable: On running, for a model without boxes to attack, or whose
            predictions are not one box with class logits each (cascades, CenterNet).

    Example:
        >>> DAG(eps=8, steps=30).threat_model()['gamma']
        0.5
    """

    gamma: float = 0.5
    steps: int = 150
    iou_threshold: float = 0.9
    max_proposals: int = 3000
    active_iou: float = 0.1
    active_score: float = 0.1
    strong_score: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count('steps', self.steps)
        if not self.gamma > 0:
            raise ValueError(f'gamma={self.gamma} must be above 0.')

    def threat_model(self) -> dict[str, Any]:
        return {**super().threat_model(), 'objective': 'targets'}

    def check_applies(self, oracle: Oracle) -> None:
        if oracle.task != 'detection':
            raise NotApplicable(
                f'DAG attacks the boxes of detectors and {type(oracle.model).__name__} '
                'has none; use PGD or APGD instead.'
            )

    def perturb(
        self, oracle: Oracle, group: ImageGroup, stats: AttackStats
    ) -> tuple[list[Tensor], list[float]]:
        self.check_applies(oracle)
        # Images need different numbers of steps: one after the other.
        adversarial, margins = [], []
        with training_flags(oracle.model, False):
            for i, image_id in enumerate(group.ids):
                frame, sample = group.frames[i], group.samples[i]
                victim = Victim(oracle, frame, sample, self.seed_of(image_id))
                adv, margin = self._perturb_one(victim, stats)
                adversarial.append(adv)
                margins.append(margin)
        return adversarial, margins

    def _perturb_one(self, victim: Victim, stats: AttackStats) -> tuple[Tensor, float]:
        """Attack one image; return it and the mean margin of the targets."""
        torch.manual_seed(victim.seed)
        with torch.no_grad():
            batch = victim.preprocess(victim.image)
            proposals = propose(
                victim.oracle.model, batch, self.iou_threshold, self.max_proposals
            )
            truth = self._assign(proposals, batch)
        adv, mean = victim.image, math.nan
        if len(truth) == 0:
            return adv, mean
        num_classes = self._num_classes(proposals, batch)
        target = self._targets(truth, victim.sample, num_classes, victim.seed)
        for step in range(self.steps + 1):
            x = adv.detach().requires_grad_()
            logits = proposals.logits(victim.preprocess(x))
            shown = self._shown(proposals, logits.detach(), truth, target)
            margin = logits.gather(1, target[:, None]) - logits.gather(
                1, truth[:, None]
            )
            mean = margin.detach().mean().item()
            stats.record_losses(step, mean)
            if step == self.steps or not (shown == truth).any():
                break
            if not margin.requires_grad:
                raise GradientBlocked
            attacked = (shown != target) & (shown != num_classes)
            (grad,) = torch.autograd.grad(margin[attacked].sum(), x)
            if not self._count(grad, stats):
                break
            adv = x.detach() + self.gamma * grad / grad.abs().max()
            if self.eps is not None:
                adv = self.budget.project(adv, victim.image)
        return adv, mean

    @staticmethod
    def _count(grad: Tensor, stats: AttackStats) -> bool:
        """Count a gradient; return whether it leads anywhere.

        Without a direction, further steps would be the same.
        """
        stats.grad_evals += 1
        finite = bool(torch.isfinite(grad.abs().max()))
        zero = not grad.any()
        stats.nonfinite_grads += int(not finite)
        stats.zero_grads += int(zero)
        return finite and not zero

    def _assign(self, proposals: Proposals, batch: dict) -> Tensor:
        """Keep the proposals that show an object; return its class for each, (P,)."""
        gt = batch['data_samples'][0].gt_instances
        if len(gt.bboxes) == 0 or len(proposals.boxes) == 0:
            proposals.keep(torch.zeros(len(proposals.boxes), dtype=torch.bool))
            return gt.labels[:0]
        overlap, nearest = bbox_overlaps(proposals.boxes, gt.bboxes).max(1)
        labels = gt.labels[nearest]
        logits = proposals.logits(batch)
        score = proposals.scores(logits).gather(1, labels[:, None])[:, 0]
        active = (overlap > self.active_iou) & (score > self.active_score)
        proposals.keep(active)
        return labels[active]

    @staticmethod
    def _num_classes(proposals: Proposals, batch: dict) -> int:
        with torch.no_grad():
            return proposals.logits(batch).shape[1] - 1

    @staticmethod
    def _targets(truth: Tensor, sample: Any, num_classes: int, seed: int) -> Tensor:
        """For each class in the image one that is absent, by a random permutation."""
        present = sample.gt_instances.labels.unique().tolist()
        others = [c for c in range(num_classes) if c not in present]
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(max(len(others), 1), generator=generator).tolist()
        target = truth.clone()
        for k, label in enumerate(present):
            if others:
                wrong = others[order[k % len(others)]]
            else:  # every class is in the image: the next one
                wrong = (label + 1) % num_classes
            target[truth == label] = wrong
        return target

    def _shown(
        self, proposals: Proposals, logits: Tensor, truth: Tensor, target: Tensor
    ) -> Tensor:
        """The class each proposal shows; weakly fooled ones still show the true one."""
        shown = logits.argmax(1)
        fooled = (shown == target).nonzero()[:, 0]
        if len(fooled):
            score = proposals.scores(logits).gather(1, target[:, None])[:, 0]
            _, best = batched_nms(
                proposals.boxes[fooled],
                score[fooled],
                target[fooled],
                dict(type='nms', iou_threshold=0.35),
            )
            best = fooled[best]
            weak = best[score[best] < self.strong_score]
            shown[weak] = truth[weak]
        return shown


@dataclass
class Victim:
    """One image under attack.

    Args:
        oracle: Oracle of the model.
        frame: Its input, and where in it the image is.
        sample: Data sample with ground truth at the scale of the input.
        seed: Seed of all that is random about it.
    """

    oracle: Oracle
    frame: Frame
    sample: Any
    seed: int

    @property
    def image(self) -> Tensor:
        """The clean image without its padding, (C, H, W) in 0..255."""
        return self.frame.cut()

    def preprocess(self, image: Tensor) -> dict:
        """Return the batch of this image, as the model's ``loss`` takes it."""
        return self.oracle.preprocess([image], [self.sample], [self.frame])
