"""Dense Adversary Generation: make every proposal show a wrong class."""

import math

import torch
from mmcv.ops import batched_nms
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor, nn

from mmdiff.registry import ATTACKS

from .attack import Attack
from .gradient_attack import GradientBlocked
from mmdiff.utils.modules import training_flags
from .proposals import Proposals, propose


@ATTACKS.register_module()
class DAG(Attack):
    """Dense Adversary Generation (Xie et al. 2017) on two- and one-stage detectors.

    Proposals are found once, on the clean image, with a denser NMS. Those that overlap
    an object and show its class are to show another one, drawn per class from the
    classes absent from the image. Each step adds
    ``gamma * g / max|g|``, ``g`` the gradient of the summed differences of target and
    true logits over the proposals not there yet, until no proposal shows its class.

    As published (``eps=None``) nothing bounds the perturbation but the number of steps;
    only the final image is clipped to 0..255. With ``eps`` every step is projected.
    One-stage detectors have no proposals: every prior with its clean box takes their
    place, and background is a score below the model's ``score_thr``.

    Args:
        eps: Budget in pixel units, or ``None`` as published.
        gamma: Largest change of a pixel value per step.
        steps: Steps at most (150 as published).
        iou_threshold: Of the NMS of the proposals.
        max_proposals: Proposals at most.
        active_iou: Overlap with an object above which a proposal is attacked.
        active_score: Score of the object's class above which it is attacked.
        strong_score: A proposal that is best of its neighbours (NMS at 0.35) counts as
            fooled only with this score of its target.
        **kwargs: See :class:`Attack`.

    Raises:
        ValueError: For arguments out of range, or a detector without boxes to attack.

    Example:
        >>> DAG(eps=8, steps=30).threat_model()['gamma']
        0.5
    """

    def __init__(
        self,
        eps: float | None = None,
        gamma: float = 0.5,
        steps: int = 150,
        norm: str = 'linf',
        iou_threshold: float = 0.9,
        max_proposals: int = 3000,
        active_iou: float = 0.1,
        active_score: float = 0.1,
        strong_score: float = 0.8,
        **kwargs,
    ) -> None:
        super().__init__(eps, norm, **kwargs)
        if steps < 1 or not gamma > 0:
            raise ValueError(
                f'steps={steps} must be at least 1 and gamma={gamma} above 0.'
            )
        self.gamma = gamma
        self.steps = steps
        self.iou_threshold = iou_threshold
        self.max_proposals = max_proposals
        self.active_iou = active_iou
        self.active_score = active_score
        self.strong_score = strong_score

    def threat_model(self) -> dict:
        own = dict(objective='targets', steps=self.steps, gamma=self.gamma)
        return {**super().threat_model(), **own}

    def perturb(self, model, images, samples, ids):
        # Images need different numbers of steps: one after the other.
        with training_flags(model, False):
            found = [
                self._perturb_one(model, image, sample, self.seed_of(image_id))
                for image, sample, image_id in zip(images, samples, ids)
            ]
        return tuple(map(list, zip(*found)))

    def _perturb_one(
        self, model: nn.Module, image: Tensor, sample, seed: int
    ) -> tuple[Tensor, float]:
        torch.manual_seed(seed)
        with torch.no_grad():
            batch = self.preprocess(model, [image], [sample])
            proposals = propose(model, batch, self.iou_threshold, self.max_proposals)
            truth = self._assign(proposals, batch)
        adv = image
        if len(truth) == 0:
            return adv, math.nan
        num_classes = self._num_classes(proposals, batch)
        target = self._targets(truth, sample, num_classes, seed)
        for step in range(self.steps + 1):
            x = adv.detach().requires_grad_()
            logits = proposals.logits(self.preprocess(model, [x], [sample]))
            shown = self._shown(proposals, logits.detach(), truth, target)
            margin = logits.gather(1, target[:, None]) - logits.gather(
                1, truth[:, None]
            )
            mean = margin.detach().mean().item()
            self.stats.losses[step] = self.stats.losses.get(step, 0.0) + mean
            if step == self.steps or not (shown == truth).any():
                break
            attacked = (shown != target) & (shown != num_classes)
            if not margin.requires_grad:
                raise GradientBlocked
            (grad,) = torch.autograd.grad(margin[attacked].sum(), x)
            self.stats.grad_evals += 1
            largest = grad.abs().max()
            if not torch.isfinite(largest):
                self.stats.nonfinite_grads += 1
                break
            if largest == 0:  # no direction: further steps would be the same
                self.stats.zero_grads += 1
                break
            adv = x.detach() + self.gamma * grad / largest
            if self.eps is not None:
                adv = self.project(adv, image)
        return adv, mean

    def _assign(self, proposals: Proposals, batch: dict) -> Tensor:
        """Keep the proposals that show an object; return the classes, (P,)."""
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
    def _targets(truth: Tensor, sample, num_classes: int, seed: int) -> Tensor:
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
