"""Attacks that search step by step for a high objective."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from .budget import check_count
from .objectives import build_objective, check_objective
from .oracle import ImageGroup, Oracle, Question
from .result import AttackStats
from .source import SourcedAttack

PROPOSALS = ('fixed', 'moving')


@dataclass(eq=False, kw_only=True)
class IterativeAttack(SourcedAttack):
    """Search images with a high objective; a subclass says how (:meth:`search`).

    Args:
        eps: Budget in pixel units (8 is 8/255).
        steps: Steps of the search.
        objective: On detectors, ``'total'``, in TOG ``'untargeted'``: all losses;
            ``'cls'``, ``'reg'``: those of the final head (A_cls and A_reg of Zhang and
            Wang 2019); ``'cwa'``: both, classes weighted (Chen et al. 2021). Of TOG
            (Chow et al. 2020): ``'vanishing'`` descends all losses against no objects,
            ``'fabrication'`` ascends them, ``'mislabel'`` descends all losses against
            the boxes with other classes (all shifted by one random number). On what
            the detector reports at test time: ``'detections'`` lowers the scores of
            true classes on objects, ``'detections_fabrication'`` raises false alarms as
            well, ``'margin'`` lets any other class win, ``'targeted'`` one. On
            classifiers, ``'total'`` and ``'ce'``: the cross-entropy; ``'cw'``: the
            margin of logits; ``'dlr'`` and ``'dlr_targeted'`` (Croce and Hein 2020);
            ``'kl'``: the divergence from the clean prediction. On models with a
            diffusion prior, ``'lagrange'``: another one less the denoising error
            (:class:`mmdiff.attacks.Lagrange`). An objective of your own by its config:
            ``dict(type='MyObjective', ...)``
            (:class:`mmdiff.attacks.DetectionObjective`,
            :class:`mmdiff.attacks.ClassificationObjective`).
        restarts: Number of restarts; of each image the one that ends with the highest
            objective is kept.
        restart_offset: Number of the first restart: run one by one, with offsets 0, 1,
            ..., they are those that would run at once.
        eot: Objectives are averaged over so many passes; above 1 for models that draw
            fresh noise (expectation over transformation, Athalye et al. 2018).
        proposals: On two-stage detectors, ``'fixed'``: the RoI head's losses are those
            on the proposals for the clean image, equally sampled at every step;
            ``'moving'``: each iterate has its own, as the model computes its losses;
            they may fall unseen by the gradient, with fewer proposals on objects.
            Where the objective is on what is reported, proposals are those of test
            time.
        source, norm, quantize, mask, seed: See :class:`SourcedAttack`.

    Raises:
        ValueError: For arguments out of range.
    """

    eps: float | None = field(default=8, kw_only=False)
    steps: int = 10
    objective: str | Mapping[str, Any] = 'total'
    restarts: int = 1
    restart_offset: int = 0
    eot: int = 1
    proposals: str = 'fixed'

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps is None:
            raise ValueError(
                f'{type(self).__name__} needs a budget; give eps in pixels (8 is '
                '8/255).'
            )
        if isinstance(self.objective, Mapping):
            self.objective = dict(self.objective)  # of mmengine's: reports are JSON
            build_objective(self.objective)
        else:
            check_objective(self.objective)
        if self.proposals not in PROPOSALS:
            raise ValueError(
                f"proposals={self.proposals!r} must be 'fixed' or 'moving'."
            )
        for name in ('steps', 'restarts', 'eot'):
            check_count(name, getattr(self, name))

    def check_applies(self, oracle: Oracle) -> None:
        oracle.goal_of(self.objective)

    @abstractmethod
    def search(
        self, question: Question, group: ImageGroup, restart: int
    ) -> tuple[list[Tensor], list[float]]:
        """Run one restart; return images and their objectives, as :meth:`perturb`."""

    def perturb(
        self, oracle: Oracle, group: ImageGroup, stats: AttackStats
    ) -> tuple[list[Tensor], list[float]]:
        question = oracle.ask(
            group, stats, self.seed_of, self.objective, self.proposals, self.eot
        )
        best = list(group.pixels)
        highest = [-torch.inf] * len(best)
        for restart in range(self.restart_offset, self.restart_offset + self.restarts):
            ends = zip(*self.search(question, group, restart))
            for i, (adv, loss) in enumerate(ends):
                # The first restart counts even if its objective is not a number.
                if restart == self.restart_offset or loss > highest[i]:
                    best[i], highest[i] = adv, loss
        return best, highest


@dataclass
class Trace:
    """One image on its way.

    Args:
        clean: The clean image.
        adv: The iterate.
        best: The iterate of highest objective so far.
        best_loss: That objective.
    """

    clean: Tensor
    adv: Tensor
    best: Tensor
    best_loss: float = -torch.inf

    def see(self, loss: float) -> None:
        """Take note of the objective at the iterate."""
        if loss > self.best_loss:
            self.best, self.best_loss = self.adv, loss


TraceType = TypeVar('TraceType', bound=Trace)


@dataclass(eq=False, kw_only=True)
class GradientAttack(IterativeAttack, Generic[TraceType]):
    """Follow gradients; a subclass says where a step leads (:meth:`update`).

    Args:
        random_start: Start anywhere in the budget instead of at the image.
        keep_best: Return, of all iterates of an image, the one with the highest
            objective instead of the last one. ``None``: unless a detector's proposals
            move. Then the objectives of two iterates are on other proposals and
            samples, and the highest is often only luck.
        eps, steps, objective, restarts, restart_offset, eot, proposals, source, norm,
            quantize, mask, seed: See :class:`IterativeAttack`.

    Raises:
        ValueError: For arguments out of range.
        GradientBlocked: On running, if the loss does not depend on the image.
    """

    random_start: bool = True
    keep_best: bool | None = True
    # What an image on its way carries; a subclass that remembers more has its own.
    trace_type: ClassVar[type[Trace]] = Trace

    @abstractmethod
    def update(self, trace: TraceType, grad: Tensor, loss: float, step: int) -> Tensor:
        """Return the next iterate, within the budget.

        Args:
            trace: The image; ``trace.adv`` is the iterate.
            grad: Gradient of the objective at the iterate.
            loss: Objective there.
            step: Number of the step, from 0.
        """

    def search(
        self, question: Question, group: ImageGroup, restart: int
    ) -> tuple[list[Tensor], list[float]]:
        traces: list[Any] = []
        for x, image_id, mask in zip(group.pixels, group.ids, group.masks):
            traces.append(self.begin(x, image_id, restart, mask))
        keep_best, resample = self._comparing(question)
        for step in range(self.steps):
            pixels = [trace.adv for trace in traces]
            grads, losses = question.gradients(pixels, restart, step, resample)
            question.stats.record_losses(step, losses.sum().item())
            for trace, grad, loss in zip(traces, grads, losses.tolist()):
                trace.see(loss)
                trace.adv = self.update(trace, grad, loss, step)
        pixels = [trace.adv for trace in traces]
        losses = question.losses(pixels, restart, self.steps)
        question.stats.record_losses(self.steps, losses.sum().item())
        for trace, loss in zip(traces, losses.tolist()):
            trace.see(loss)
        self.settle(traces, keep_best, question.stats)
        if not keep_best:
            return pixels, losses.tolist()
        return [trace.best for trace in traces], [trace.best_loss for trace in traces]

    def _comparing(self, question: Question) -> tuple[bool, bool]:
        """Whether the best iterate is kept, and whether heads sample anew."""
        # What is reported at test time is no sample: it compares as it is.
        fixed = self.proposals == 'fixed' or not question.samples_anew
        keep_best = self.keep_best
        if keep_best is None:
            keep_best = fixed or not question.proposals_move
        # Sampled anew at each step, gradients serve no one sample, but objectives of
        # two steps differ by chance as well: they cannot be compared.
        return keep_best, not (fixed or keep_best)

    def begin(
        self, x: Tensor, image_id: str, restart: int, mask: Tensor | None
    ) -> Trace:
        """Return an image at the beginning of its way.

        Args:
            x: The clean image.
            image_id: Its name, for what is drawn.
            restart: Number of the restart.
            mask: Pixels that may change, (H, W), bool; ``None``: all.
        """
        start = self._start(x, image_id, restart, mask)
        return self.trace_type(x, start, start)

    def settle(  # noqa: B027 (most have no more to tell)
        self, traces: Sequence[Any], keep_best: bool, stats: AttackStats
    ) -> None:
        """Add to the account what is known of images at the end of their way.

        Args:
            traces: The images.
            keep_best: Whether the best iterates are returned, or the last ones.
            stats: The account.
        """

    def _start(
        self, x: Tensor, image_id: str, restart: int, mask: Tensor | None
    ) -> Tensor:
        if not self.random_start:
            return x.clone()
        generator = torch.Generator().manual_seed(self.seed_of(image_id, restart))
        return self.budget.project(x + self.budget.sample(x, generator, mask), x)


def check_step_size(step_size: float | None) -> None:
    """Complain about a step that leads nowhere.

    Raises:
        ValueError: If it is not above 0.
    """
    if step_size is not None and not step_size > 0:
        raise ValueError(f'step_size={step_size} must be above 0, in pixel units.')
