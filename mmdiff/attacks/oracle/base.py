"""What may be asked of any mm model: objectives and their gradients, image by image."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from mmengine.model import BaseTTAModel
from torch import Tensor, nn

from mmdiff.utils.model_state import kept_state
from mmdiff.utils.modules import (
    device_of,
    differentiable,
    finished_training,
    frozen_parameters,
    num_classes,
    single_rank,
    unwrap,
)

from ..errors import NotApplicable
from ..objectives import BUILT, build_objective, check_objective
from ..objectives.lagrange import Lagrange
from ..result import AttackStats
from .frame import Frame, ImageGroup, Region, check_pixels
from .kinds import attacked_part
from .penalty import PenalisedGoal, penalised_goal
from .question import Question

# Attacks within attacks (a check, say) are of one thread and may go on.
_ONE_AT_A_TIME = threading.RLock()
GT_SCALES = ('original', 'input')


def _nothing_is_written() -> bool:
    return False


def _nothing_to_reset() -> None:
    """Outside of :meth:`Oracle.attacked` a model is left to itself."""


class Oracle(ABC):
    """Answers the questions of attacks about one model.

    It knows the model's preprocessor, its task and the state in which it must be
    asked. Attacks know models through it alone.

    ``tested`` is the model, without wrappers of mmengine; ``model`` is what of it
    predicts and is attacked (:func:`~mmdiff.attacks.oracle.kinds.attacked_part`), and
    ``preprocessor`` is in front of that.

    Args:
        model: The model; wrappers around it are taken off.
        gt_scale: Scale of the ground truth in data samples; see the subclasses.

    Raises:
        ValueError: For a model that cannot be attacked (a tracker, test-time
            augmentation), or an unknown ``gt_scale``.
        TypeError: If it is no model of mmengine.
    """

    task: ClassVar[str]
    # Whether modules are in train mode while losses are taken.
    training: ClassVar[bool]

    def __init__(self, model: nn.Module, gt_scale: str = 'original') -> None:
        self.tested = unwrap(model)
        if isinstance(self.tested, BaseTTAModel):
            raise ValueError(
                'An attack has no one input to perturb under test-time augmentation; '
                'run without --tta (without the TTA model).'
            )
        if gt_scale not in GT_SCALES:
            raise ValueError(f"gt_scale={gt_scale!r} must be 'original' or 'input'.")
        self.gt_scale = gt_scale
        self.model, self.preprocessor = attacked_part(self.tested)
        # Names of the classes, where somebody knows them: the loop, or a checkpoint.
        meta = getattr(self.tested, 'dataset_meta', None) or {}
        self.classes = tuple(meta.get('classes', ()))
        # Undoes what losses wrote in the model, while it is attacked.
        self.reset: Callable[[], None] = _nothing_to_reset
        # Whether there is anything of the kind.
        self.is_written: Callable[[], bool] = _nothing_is_written

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return device_of(self.model)

    @property
    def num_classes(self) -> int:
        """Number of classes of the model's final head, or of those named to it."""
        if self.classes and getattr(self.model, 'language_model', None) is not None:
            return len(self.classes)
        return num_classes(self.model)

    @property
    def proposals_move(self) -> bool:
        """Whether what losses are taken on depends on the image: two-stage models."""
        return False

    def goal_of(self, objective: str | Mapping[str, Any]) -> Any:
        """Build what is ascended: an objective by its name, or by its config.

        Raises:
            NotApplicable: If models of this task have no such objective, or this model
                no prior that it needs.
        """
        if isinstance(objective, str):
            try:
                check_objective(objective, self.task)
            except ValueError as error:
                raise NotApplicable(str(error)) from None
            if objective not in BUILT:
                return objective
        goal = build_objective(objective)
        if isinstance(goal, Lagrange):
            return penalised_goal(self, goal)
        if goal.task != self.task:
            raise NotApplicable(
                f'objective={objective!r} is one of {goal.task}, not of {self.task}.'
            )
        return goal

    def trains_for(self, goal: Any) -> bool:
        """Whether modules are in train mode while an objective is taken."""
        return self.training and isinstance(goal, str)

    @contextmanager
    def attacked(self) -> Iterator[None]:
        """Put the model in the state that attacks need, and back at the end.

        Gradients are on, mixed precision is off, parameters take no gradient. Losses
        see no other rank, and a finished training unless it goes on. The global random
        state and what losses write in the model are kept. Attacks in several threads
        take turns, as functions of torch are replaced meanwhile.
        """
        with (
            _ONE_AT_A_TIME,
            differentiable(self.device),
            frozen_parameters(self.model),
            kept_state(self.model) as state,
            single_rank(),
            finished_training(),
        ):
            self.reset, self.is_written = state.reset, state.is_written
            try:
                yield
            finally:
                self.reset = _nothing_to_reset
                self.is_written = _nothing_is_written

    @abstractmethod
    def at_input_scale(self, sample: Any) -> Any:
        """Copy a data sample, with its ground truth as the model sees the image.

        Raises:
            ValueError: If it has no ground truth.
        """

    def region_of(self, sample: Any, shape: tuple[int, int]) -> Region:
        """Find the region of an input of this shape that shows the image.

        Raises:
            ValueError: If it cannot be told.
        """
        return Region(0, 0, *shape)

    def gather(self, data_batch: dict) -> ImageGroup:
        """Read the images of a batch, as the dataloader gives it.

        Raises:
            ValueError: If pixel values are not 0..255, or there is no ground truth.
        """
        frames, ids = [], []
        for i, x in enumerate(data_batch['inputs']):
            check_pixels(x)
            sample = data_batch['data_samples'][i]
            canvas = x.detach().to(self.device, torch.float32)
            region = self.region_of(sample, tuple(canvas.shape[-2:]))
            frames.append(Frame(canvas, region))
            ids.append(self.image_id(sample, i))
        samples = [self.at_input_scale(s) for s in data_batch['data_samples']]
        return ImageGroup(frames, samples, ids)

    @staticmethod
    def image_id(sample: Any, position: int) -> str:
        """Return the image's id in its dataset, or its place in the batch.

        Of a dataset without ids it is the file and its folder: seeds follow from it,
        and are the same wherever the data lie.
        """
        meta = sample.metainfo
        if 'img_id' in meta:
            return str(meta['img_id'])
        if meta.get('img_path'):
            return '/'.join(Path(meta['img_path']).parts[-2:])
        return f'#{position}'

    def split(self, group: ImageGroup, indices: Sequence[int]) -> list[list[int]]:
        """Split ``indices`` into those of inputs that pad to the same size.

        A model sees an image differently on a larger canvas; attacked beside its equals
        only, an image's result does not depend on its batch.
        """
        divisor = getattr(self.preprocessor, 'pad_size_divisor', 1) or 1
        groups: dict[tuple, list[int]] = {}
        for i in indices:
            shape = group.frames[i].canvas.shape[-2:]
            size = tuple(-(-side // divisor) for side in shape)
            groups.setdefault(size, []).append(i)
        return list(groups.values())

    def preprocess(
        self, pixels: Sequence[Tensor], samples: Sequence, frames: Sequence[Frame]
    ) -> dict:
        """Run the model's own preprocessor, differentiably, on copied samples.

        Args:
            pixels: Images without their padding.
            samples: Their data samples.
            frames: The inputs to put them in.
        """
        inputs = [frame.paste(x) for frame, x in zip(frames, pixels)]
        copies = [sample.clone() for sample in samples]
        batch = {'inputs': inputs, 'data_samples': copies}
        return self.preprocessor(batch, training=False)

    def ask(
        self,
        group: ImageGroup,
        stats: AttackStats,
        seed_of: Callable[..., int],
        objective: str | Mapping[str, Any],
        proposals: str = 'fixed',
        eot: int = 1,
    ) -> Question:
        """Prepare one objective of some images, to be asked again and again.

        Args:
            group: The images.
            stats: Account in which gradients and queries are counted.
            seed_of: Seed of a random choice about an image: called with the image's
                id and names of the choice.
            objective: Name of the objective, or its config.
            proposals: ``'fixed'`` or ``'moving'``; see :class:`IterativeAttack`.
            eot: Number of passes that the objective is averaged over.

        Raises:
            NotApplicable: If models of this task have no such objective.
        """
        goal, oracle, penalty = self.goal_of(objective), self, None
        if isinstance(goal, PenalisedGoal):
            oracle, penalty, goal = goal.oracle, goal.penalty, goal.goal
        question = Question(
            oracle, group, goal, proposals, eot, seed_of, stats, penalty
        )
        question.group = replace(group, samples=oracle.prepare(question))
        return question

    def prepare(self, question: Question) -> list:
        """Return the samples with what the objective is measured against."""
        return question.group.samples

    @abstractmethod
    def image_losses(self, batch: dict, seeds: Sequence[int], objective: Any) -> Tensor:
        """Objective of every image, (N,), as if it were alone in the batch.

        Args:
            batch: Output of :meth:`preprocess`.
            seeds: Seed of the random choices of heads, one per image.
            objective: What :meth:`goal_of` made of the objective.

        Raises:
            NotApplicable: If the model has no loss for this objective.
        """
