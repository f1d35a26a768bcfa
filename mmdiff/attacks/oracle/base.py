"""What may be asked of any mm model: objectives and their gradients, image by image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from mmengine.model import BaseTTAModel
from torch import Tensor, nn

from mmdiff.utils.modules import (
    device_of,
    differentiable,
    frozen_parameters,
    num_classes,
    training_flags,
    unwrap,
)

from ..objectives import NAMES
from ..result import AttackStats

GT_SCALES = ('original', 'input')


class GradientBlocked(RuntimeError):
    """No gradient reaches the image: the attack's failure would say nothing."""

    def __init__(self) -> None:
        super().__init__(
            'The loss does not depend on the image: a module between them runs '
            'under no_grad or detaches, and no attack can see through it.'
        )


@dataclass
class ImageGroup:
    """Images that pad to one and the same size: they are attacked together.

    Args:
        pixels: Float images (C, H, W) in 0..255.
        samples: Data samples with ground truth at the scale of the input.
        ids: Names that make the random choices about each image its own.
    """

    pixels: list[Tensor]
    samples: list
    ids: list[str]


class Oracle(ABC):
    """Answers the questions of attacks about one model.

    It knows the model's preprocessor, its task and the state in which it must be
    asked. Attacks know models through it alone.

    Args:
        model: The model; wrappers around it are taken off.
        gt_scale: Scale of the ground truth in data samples; see the subclasses.

    Raises:
        ValueError: For a test-time-augmentation model or an unknown ``gt_scale``.
    """

    task: ClassVar[str]
    # Whether modules are in train mode while losses are taken.
    training: ClassVar[bool]

    def __init__(self, model: nn.Module, gt_scale: str = 'original') -> None:
        self.model = unwrap(model)
        if isinstance(self.model, BaseTTAModel):
            raise ValueError(
                'An attack has no one input to perturb under test-time augmentation; '
                'run without --tta (without the TTA model).'
            )
        if gt_scale not in GT_SCALES:
            raise ValueError(f"gt_scale={gt_scale!r} must be 'original' or 'input'.")
        self.gt_scale = gt_scale

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return device_of(self.model)

    @property
    def num_classes(self) -> int:
        """Number of classes of the model's final head."""
        return num_classes(self.model)

    @property
    def proposals_move(self) -> bool:
        """Whether what losses are taken on depends on the image: two-stage models."""
        return False

    @contextmanager
    def attacked(self) -> Iterator[None]:
        """Put the model in the state that attacks need, and back at the end.

        Gradients are on, mixed precision is off, parameters take no gradient, the
        global random state is kept.
        """
        with differentiable(self.device), frozen_parameters(self.model):
            yield

    @abstractmethod
    def at_input_scale(self, sample):
        """Copy a data sample, with its ground truth as the model sees the image.

        Raises:
            ValueError: If it has no ground truth.
        """

    @staticmethod
    def image_id(sample, position: int) -> str:
        """Return the image's id in its dataset, or its place in the batch."""
        meta = sample.metainfo
        return str(meta.get('img_id', meta.get('img_path', f'#{position}')))

    def group(self, pixels: Sequence[Tensor], indices: Sequence[int]) -> list[list]:
        """Split ``indices`` into those of images that pad to the same size.

        A model sees an image differently on a larger canvas; attacked beside its equals
        only, an image's result does not depend on its batch.
        """
        divisor = getattr(self.model.data_preprocessor, 'pad_size_divisor', 1) or 1
        groups: dict[tuple, list[int]] = {}
        for i in indices:
            size = tuple(-(-side // divisor) for side in pixels[i].shape[-2:])
            groups.setdefault(size, []).append(i)
        return list(groups.values())

    def preprocess(self, pixels: Sequence[Tensor], samples: Sequence) -> dict:
        """Run the model's own preprocessor, differentiably, on copied samples."""
        copies = [sample.clone() for sample in samples]
        batch = {'inputs': list(pixels), 'data_samples': copies}
        return self.model.data_preprocessor(batch, training=False)

    def ask(
        self,
        group: ImageGroup,
        stats: AttackStats,
        seed_of: Callable[..., int],
        objective: str,
        proposals: str = 'fixed',
        eot: int = 1,
    ) -> Question:
        """Prepare one objective of some images, to be asked again and again.

        Args:
            group: The images.
            stats: Account in which gradients and queries are counted.
            seed_of: Seed of a random choice about an image: called with the image's
                id and names of the choice.
            objective: Name of the objective.
            proposals: ``'fixed'`` or ``'moving'``; see :class:`IterativeAttack`.
            eot: Number of passes that the objective is averaged over.

        Raises:
            ValueError: If models of this task have no such objective.
        """
        if objective not in NAMES[self.task]:
            raise ValueError(
                f'objective={objective!r} is none of {self.task}; choose one of '
                f'{NAMES[self.task]}.'
            )
        samples = self.prepare(group, stats, seed_of, objective, proposals)
        return Question(self, samples, group.ids, objective, eot, seed_of, stats)

    def prepare(
        self,
        group: ImageGroup,
        stats: AttackStats,
        seed_of: Callable[..., int],
        objective: str,
        proposals: str,
    ) -> list:
        """Return the samples with what the objective is measured against."""
        return group.samples

    @abstractmethod
    def image_losses(self, batch: dict, seeds: Sequence[int], objective: str) -> Tensor:
        """Objective of every image, (N,), as if it were alone in the batch.

        Args:
            batch: Output of :meth:`preprocess`.
            seeds: Seed of the random choices of heads, one per image.
            objective: Name of the objective.

        Raises:
            ValueError: If the model has no loss for this objective.
        """


@dataclass
class Question:
    """One objective of some images, ready to be asked at any iterate.

    Args:
        oracle: The oracle of the model.
        samples: Data samples, with what the objective is measured against.
        ids: Names of the images.
        objective: Name of the objective.
        eot: Number of passes that are averaged (expectation over transformation).
        seed_of: See :meth:`Oracle.ask`.
        stats: Account in which gradients and queries are counted.
    """

    oracle: Oracle
    samples: list
    ids: list[str]
    objective: str
    eot: int
    seed_of: Callable[..., int]
    stats: AttackStats

    @property
    def proposals_move(self) -> bool:
        """See :attr:`Oracle.proposals_move`."""
        return self.oracle.proposals_move

    def gradients(
        self, pixels: Sequence[Tensor], restart: int, step: int, resample: bool = False
    ) -> tuple[list[Tensor], Tensor]:
        """Gradients of the images' objectives to their pixels, and the objectives.

        Args:
            pixels: Iterates, (C, H, W) each.
            restart: Number of the restart; with ``step`` it seeds what the model itself
                draws.
            step: Number of the step.
            resample: Let heads sample anew at this step. Otherwise they sample as at
                every other step, so that objectives can be compared.

        Returns:
            One gradient per image, non-finite values replaced by 0, and (N,).

        Raises:
            GradientBlocked: If the objective does not depend on the images.
        """
        pixels = [x.detach().requires_grad_() for x in pixels]
        choice = (restart, step) if resample else ('final',)
        losses = self._losses(pixels, choice, restart, step)
        if not losses.requires_grad:
            raise GradientBlocked
        grads = torch.autograd.grad(losses.sum(), pixels, allow_unused=True)
        checked = [self._check(x, grad) for x, grad in zip(pixels, grads)]
        return checked, losses.detach()

    def losses(self, pixels: Sequence[Tensor], restart: int, step: int) -> Tensor:
        """Objectives without gradients, (N,), sampled as steps without resampling."""
        self.stats.queries += self.eot * len(pixels)
        with torch.no_grad():
            return self._losses(pixels, ('final',), restart, step)

    def _losses(self, pixels, choice: tuple, restart: int, step: int) -> Tensor:
        """Mean objective over ``eot`` passes, (N,)."""
        seeds = [self.seed_of(i, *choice) for i in self.ids]
        noise_seed = self.seed_of(self.ids[0], restart, step)
        total = 0
        with training_flags(self.oracle.model, self.oracle.training):
            for k in range(self.eot):
                batch = self.oracle.preprocess(pixels, self.samples)
                torch.manual_seed(noise_seed + k)  # of fresh noise in the backbone
                shifted = [seed + k for seed in seeds]
                total = total + self.oracle.image_losses(batch, shifted, self.objective)
        return total / self.eot

    def _check(self, x: Tensor, grad: Tensor | None) -> Tensor:
        """Count a gradient; replace what is not a number."""
        grad = torch.zeros_like(x) if grad is None else grad
        finite = torch.isfinite(grad)
        self.stats.grad_evals += self.eot
        self.stats.nonfinite_grads += int(not finite.all())
        self.stats.zero_grads += int(not grad.any())
        return torch.where(finite, grad, 0)
