"""The shell of attacks on an objective: restarts, passes, proposals, bookkeeping."""

from abc import abstractmethod

import torch
from torch import Tensor

from .attack import Attack
from mmdiff.utils.modules import training_flags
from .objectives import OBJECTIVES, find_proposals, image_losses, prepare


class ObjectiveAttack(Attack):
    """Search images with a high objective; a subclass says how (:meth:`search`).

    Args:
        eps: Budget in pixel units (8 is 8/255).
        steps: Steps of the search.
        norm: ``'linf'`` or ``'l2'``.
        objective: ``'total'``, in TOG ``'untargeted'``: all losses; ``'cls'``,
            ``'reg'``: those of the final head (A_cls and A_reg of Zhang and Wang 2019);
            ``'cwa'``: both, classes weighted (Chen et al. 2021). Of TOG (Chow et al.
            2020): ``'vanishing'`` descends all losses against no objects,
            ``'fabrication'`` ascends them, ``'mislabel'`` descends all losses against
            the boxes with other classes (all shifted by one random number).
        restarts: Keep, per image, the one that ends with the highest objective.
        restart_offset: Number of the first restart: run one by one, with offsets 0, 1,
            ..., they are those that would run at once.
        eot: Objectives are averaged over so many passes; above 1 for models that draw
            fresh noise (expectation over transformation, Athalye et al. 2018).
        proposals: On two-stage detectors, ``'fixed'``: the RoI head's losses are those
            on the proposals for the clean image, equally sampled at every step;
            ``'moving'``: each iterate has its own, as the model computes its losses;
            they may fall unseen by the gradient, with fewer proposals on objects.
        **kwargs: See :class:`Attack`.

    Raises:
        ValueError: For arguments out of range.
    """

    reported = ('steps', 'objective', 'restarts', 'restart_offset', 'eot', 'proposals')

    def __init__(
        self,
        eps: float = 8,
        steps: int = 10,
        norm: str = 'linf',
        objective: str = 'total',
        restarts: int = 1,
        restart_offset: int = 0,
        eot: int = 1,
        proposals: str = 'fixed',
        **kwargs,
    ) -> None:
        super().__init__(eps, norm, **kwargs)
        if eps is None:
            kind = type(self).__name__
            raise ValueError(f'{kind} needs a budget; give eps in pixels (8 is 8/255).')
        if objective not in OBJECTIVES:
            known = tuple(OBJECTIVES)
            raise ValueError(
                f'objective={objective!r} is unknown; choose one of {known}.'
            )
        if proposals not in ('fixed', 'moving'):
            raise ValueError(f"proposals={proposals!r} must be 'fixed' or 'moving'.")
        for name, value in dict(steps=steps, restarts=restarts, eot=eot).items():
            if value < 1:
                raise ValueError(f'{name}={value} must be at least 1.')
        self.steps = steps
        self.objective = objective
        self.restarts = restarts
        self.restart_offset = restart_offset
        self.eot = eot
        self.proposals = proposals

    def threat_model(self) -> dict:
        settings = {name: getattr(self, name) for name in self.reported}
        return {**super().threat_model(), **settings}

    @abstractmethod
    def search(
        self, model, images: list[Tensor], samples: list, ids: list[str], restart: int
    ) -> tuple[list[Tensor], list[float]]:
        """One restart: images found and their objectives (see :meth:`perturb`)."""

    def perturb(self, model, images, samples, ids):
        samples = self._prepare(model, images, samples, ids)
        best, top = list(images), [-torch.inf] * len(images)
        for restart in range(self.restart_offset, self.restart_offset + self.restarts):
            found = self.search(model, images, samples, ids, restart)
            for i, (adv, loss) in enumerate(zip(*found)):
                # The first restart counts even if its objective is not a number.
                if restart == self.restart_offset or loss > top[i]:
                    best[i], top[i] = adv, loss
        return best, top

    def _prepare(self, model, images, samples, ids) -> list:
        """Samples with the objective's ground truth and, if fixed, their proposals."""
        samples = [
            prepare(sample, model, self.objective, self.seed_of(i, 'truth'))
            for sample, i in zip(samples, ids)
        ]
        if self.proposals == 'fixed':
            torch.manual_seed(self.seed_of(ids[0], 'proposals'))
            with training_flags(model, True):
                batch = self.preprocess(model, images, samples)
                found = find_proposals(model, batch) or []
            self.stats.queries += len(found)
            for sample, proposals in zip(samples, found):
                sample.proposals = proposals
        return samples

    def _losses(self, model, images, samples, seeds, noise_seed=None) -> Tensor:
        """Mean objective over ``eot`` passes, (N,)."""
        total = 0
        noise_seed = seeds[0] if noise_seed is None else noise_seed
        with training_flags(model, True):
            for k in range(self.eot):
                batch = self.preprocess(model, images, samples)
                torch.manual_seed(noise_seed + k)  # of fresh noise in the backbone
                shifted = [seed + k for seed in seeds]
                total = total + image_losses(model, batch, shifted, self.objective)
        return total / self.eot

    def _query(self, model, images, samples, ids, restart, step) -> Tensor:
        """Objectives without gradients, (N,), with the sampling all steps share."""
        seeds = [self.seed_of(i, 'final') for i in ids]
        noise_seed = self.seed_of(ids[0], restart, step)
        self.stats.queries += self.eot * len(images)
        with torch.no_grad():
            return self._losses(model, images, samples, seeds, noise_seed)

    def _record(self, step: int, losses: Tensor) -> None:
        total = losses.sum().item()
        self.stats.losses[step] = self.stats.losses.get(step, 0.0) + total
