"""Questions to a detector: backbone and neck on the batch, heads image by image.

Detectors normalise losses by the positives of the whole batch and sample anchor points
from a shared generator. To ask for the loss of one image as if it were alone, three
methods of the live model are replaced while it is asked, and put back: ``extract_feat``
returns the features that were computed for the batch; ``rpn_head.loss_and_predict``
returns fixed proposals; ``forward`` of classification losses weights classes (objective
``cwa``, see :func:`~mmdiff.attacks.objectives.detection.balanced_classes`).
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
)
from typing import Any

import torch
from torch import Tensor

from mmdiff.utils.modules import replaced, seed_all, training_flags

from ..errors import NotApplicable
from ..objectives.detection import (
    OBJECTIVES,
    advice,
    balanced_classes,
    sum_losses,
    with_truth,
    without_objects,
    wrong_labels,
)
from ..objectives.detections import DetectionObjective, Truth
from .base import Oracle
from .frame import Frame, Region, image_region
from .ground_truth import to_input_scale
from .kinds import check_inputs, check_losses
from .question import Question
from .reported import candidates_of
from .shared_heads import SharedHead, SharedHeads, known_to, take


class DetectionOracle(Oracle):
    """Answers about a detector of mmdet, by the losses of its own heads.

    Modules are in train mode while losses are taken, as heads branch on it, with
    normalisation and dropout still.

    Args:
        model: The detector.
        gt_scale: ``'original'``: ground truth is at the scale of the file, as in
            mmdet's test pipelines (``LoadAnnotations`` after ``Resize``); ``'input'``:
            at that of the input.
    """

    task = 'detection'
    training = True
    _heads: SharedHeads | None = None

    @property
    def proposals_move(self) -> bool:
        return getattr(self.model, 'roi_head', None) is not None

    def at_input_scale(self, sample: Any) -> Any:
        placed = to_input_scale(sample, self.gt_scale)
        check_inputs(self.model, placed)
        return placed

    def region_of(self, sample: Any, shape: tuple[int, int]) -> Region:
        return image_region(sample.metainfo, shape)

    def preprocess(
        self, pixels: Sequence[Tensor], samples: Sequence, frames: Sequence[Frame]
    ) -> dict:
        """See :meth:`Oracle.preprocess`; masks are padded as the preprocessor trains.

        In evaluation mmdet's preprocessor pads images alone.
        """
        batch = super().preprocess(pixels, samples, frames)
        for flag, pad in (('pad_mask', 'pad_gt_masks'), ('pad_seg', 'pad_gt_sem_seg')):
            if getattr(self.preprocessor, flag, False):
                getattr(self.preprocessor, pad)(batch['data_samples'])
        return batch

    def prepare(self, question: Question) -> list:
        """Add the objective's ground truth and, if fixed, the proposals to samples."""
        group, seed_of = question.group, question.seed_of
        if isinstance(question.objective, str):
            check_losses(self.model)
        samples = [
            self._with_truth(sample, question.objective, seed_of(i, 'truth'))
            for sample, i in zip(group.samples, group.ids)
        ]
        if question.proposals == 'fixed':
            training = self.trains_for(question.objective)
            seed_all(seed_of(group.ids[0], 'proposals'))
            with training_flags(self.model, training):
                batch = self.preprocess(group.pixels, samples, group.frames)
                proposed = self._propose(batch, training) or []
            self.reset()  # what that left is not for the loss
            question.stats.queries += len(proposed)
            for sample, instances in zip(samples, proposed):
                sample.proposals = instances
        return samples

    def _with_truth(
        self, sample: Any, goal: str | DetectionObjective, seed: int
    ) -> Any:
        """Copy a sample, with what the objective is measured against."""
        if isinstance(goal, str):
            return with_truth(sample, self.model, goal, seed)
        if 'gt_instances' not in sample:
            raise NotApplicable(
                f'{type(goal).__name__} is about boxes and this model has none; use '
                "objective='total'."
            )
        sample = copy.deepcopy(sample)
        if goal.needs_targets:
            targets = wrong_labels(sample, self.model, seed)
            sample.gt_instances.targets = targets
        return sample

    def _propose(self, batch: dict, training: bool) -> list | None:
        """What the RPN proposes for each image; ``None`` without an RPN."""
        model = self.model
        if not hasattr(model, 'rpn_head') or not hasattr(model, 'roi_head'):
            return None
        if not training:
            with torch.no_grad():
                features = model.extract_feat(batch['inputs'])
                return model.rpn_head.predict(
                    features, batch['data_samples'], rescale=False
                )
        samples = copy.deepcopy(batch['data_samples'])
        for sample in samples:  # for an RPN there is one class
            sample.gt_instances.labels.zero_()
        cfg = model.train_cfg.get('rpn_proposal', model.test_cfg.rpn)
        with torch.no_grad():
            features = model.extract_feat(batch['inputs'])
            return model.rpn_head.loss_and_predict(features, samples, proposal_cfg=cfg)[
                1
            ]

    def image_losses(self, batch: dict, seeds: Sequence[int], objective: Any) -> Tensor:
        """See :meth:`Oracle.image_losses`.

        If a sample has ``proposals``, they take the place of the RPN's.
        """
        if not isinstance(objective, str):
            return self._reported(batch, objective)
        inputs = batch['inputs']
        extract_feat = getattr(self.model, 'extract_feat', None)
        features = None if extract_feat is None else extract_feat(inputs)
        heads = self._shared_heads(features, len(inputs))
        goal, values = OBJECTIVES[objective], []
        for i, (sample, seed) in enumerate(zip(batch['data_samples'], seeds)):
            image = inputs[i : i + 1]
            seed_all(seed)
            with ExitStack() as stack:
                if features is not None:
                    own = take(features, i)
                    stack.enter_context(self._known(image, own))
                    stack.enter_context(known_to(heads, i, own))
                if 'proposals' in sample:
                    stack.enter_context(self._given(sample.proposals))
                losses = self._loss(image, sample, objective)
            loss = sum_losses(losses, objective)
            if goal.truth is without_objects and loss == 0 and features is not None:
                self._refuse_if_flat(image, take(features, i), sample, objective)
            # What the loss of one image leaves behind must not reach the next one.
            self.reset()
            values.append(goal.sign * loss)
        return torch.stack(values)

    def _shared_heads(self, features: Any, count: int) -> list[SharedHead]:
        """Ask heads that see features alone once for all images."""
        # Where backbone or neck left something for the loss, it must stay.
        if features is None or count == 1 or self.is_written():
            return []
        if self._heads is None:
            self._heads = SharedHeads(self.model)
        heads = self._heads.ask(features, count, self.is_written)
        self.reset()  # what a head left that cannot be shared
        return heads

    def _reported(self, batch: dict, goal: DetectionObjective) -> Tensor:
        """Objectives of what is reported at test time, for the whole batch at once."""
        candidates = candidates_of(self.model, batch)
        if torch.is_grad_enabled():
            self._refuse_if_detached(batch, candidates)
        truths = [Truth.of(sample) for sample in batch['data_samples']]
        values = [goal(*pair) for pair in zip(candidates, truths)]
        if not any(len(each.scores) for each in candidates):
            # Nothing is reported: the objective is flat, which is no cut gradient.
            values[0] = values[0] + 0 * batch['inputs'].sum()
        self.reset()
        return torch.stack(values)

    def _refuse_if_detached(self, batch: dict, candidates: list) -> None:
        """Complain about a head that lets no gradient through when it predicts.

        Raises:
            NotApplicable: If features have a gradient, and scores have none.
        """
        shown = [each.scores for each in candidates if len(each.scores)]
        if not shown or any(scores.requires_grad for scores in shown):
            return
        features = self.model.extract_feat(batch['inputs'])
        if _has_gradient(features):
            raise NotApplicable(
                f'{type(self.model).__name__} detaches its scores where it predicts, '
                "so an objective on them has no gradient; use objective='total'."
            )

    def _refuse_if_flat(
        self, image: Tensor, features: Any, sample: Any, objective: str
    ) -> None:
        """Complain about a loss without objects that is 0 whatever the features are.

        A loss may underflow to 0 where the head is sure of nothing; with features that
        say nothing of the kind, large random ones, it does not.

        Raises:
            NotApplicable: If the loss has no term without objects.
        """
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            with self._known(image, _random_like(features, generator)):
                losses = self._loss(image, sample, objective)
            if sum_losses(losses, objective) != 0:
                return
        raise self._no_loss_without_objects(objective, losses)

    @contextmanager
    def _known(self, image: Tensor, features: Any) -> Iterator[None]:
        """Let ``extract_feat`` know the features of one image."""
        extract_feat = self.model.extract_feat

        def known(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            return features if x is image else extract_feat(x, *args, **kwargs)

        with replaced(self.model, 'extract_feat', known):
            yield

    def _given(self, proposals: Any) -> AbstractContextManager[None]:
        """Let the RPN propose what is given; its own losses stay."""
        rpn = getattr(self.model, 'rpn_head', None)
        if not hasattr(rpn, 'loss_and_predict'):
            return nullcontext()
        predict = rpn.loss_and_predict

        def given(*args: Any, **kwargs: Any) -> tuple:
            # A copy: the RoI head renames the fields.
            return predict(*args, **kwargs)[0], [proposals.clone()]

        return replaced(rpn, 'loss_and_predict', given)

    def _loss(self, image: Tensor, sample: Any, objective: str) -> dict:
        goal = OBJECTIVES[objective]
        if goal.balanced:
            with balanced_classes(self.model, sample.gt_instances.labels) as balance:
                losses = self.model.loss(image, [sample])
            balance.check(losses)
            return losses
        try:
            return self.model.loss(image, [sample])
        except (AssertionError, IndexError, RuntimeError, ValueError) as error:
            if goal.truth is not without_objects:
                raise
            losses = self._with_objects(image, sample)
            if not losses:  # the error is the model's own
                raise
            raise self._no_loss_without_objects(objective, losses) from error

    def _with_objects(self, image: Tensor, sample: Any) -> dict:
        """Return the losses against the whole ground truth; none if they fail too."""
        complete = sample.clone()
        complete.gt_instances = complete.objects
        try:
            return self.model.loss(image, [complete])
        except (AssertionError, IndexError, RuntimeError, ValueError):
            return {}

    def _no_loss_without_objects(self, objective: str, losses: dict) -> NotApplicable:
        return NotApplicable(
            f'{type(self.model).__name__} has no loss for an image without objects, '
            f'as objective={objective!r} asks; {advice(losses)}.'
        )


def _random_like(features: Any, generator: torch.Generator) -> Any:
    """Nested features, all of them large and random."""
    if isinstance(features, Tensor):
        return 1e4 * torch.randn(features.shape, generator=generator).to(features)
    if isinstance(features, dict):
        return {key: _random_like(v, generator) for key, v in features.items()}
    return type(features)(_random_like(value, generator) for value in features)


def _has_gradient(features: Any) -> bool:
    """Whether any tensor of nested features depends on the image."""
    if isinstance(features, Tensor):
        return features.requires_grad
    values = features.values() if isinstance(features, dict) else features
    return any(_has_gradient(value) for value in values)
