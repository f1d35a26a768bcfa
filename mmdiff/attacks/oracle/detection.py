"""Questions to a detector: backbone and neck on the batch, heads image by image.

Detectors normalise losses by the positives of the whole batch and sample anchor points
from a shared generator. To ask for the loss of one image as if it were alone, three
methods of the live model are replaced while it is asked, and put back: ``extract_feat``
returns the features that were computed for the batch; ``rpn_head.loss_and_predict``
returns fixed proposals; ``forward`` of classification losses weights classes (objective
``cwa``, see :func:`~mmdiff.attacks.objectives.detection.balanced_classes`).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext

import torch
from mmdet.structures.bbox import HorizontalBoxes, get_box_tensor
from torch import Tensor

from mmdiff.utils.modules import replaced, training_flags

from ..objectives.detection import (
    OBJECTIVES,
    balanced_classes,
    sum_losses,
    with_truth,
    without_objects,
)
from ..result import AttackStats
from .base import ImageGroup, Oracle


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

    @property
    def proposals_move(self) -> bool:
        return getattr(self.model, 'roi_head', None) is not None

    def at_input_scale(self, sample):
        return to_input_scale(sample, self.gt_scale)

    def prepare(
        self,
        group: ImageGroup,
        stats: AttackStats,
        seed_of: Callable[..., int],
        objective: str,
        proposals: str,
    ) -> list:
        """Add the objective's ground truth and, if fixed, the proposals to samples."""
        samples = [
            with_truth(sample, self.model, objective, seed_of(i, 'truth'))
            for sample, i in zip(group.samples, group.ids)
        ]
        if proposals == 'fixed':
            torch.manual_seed(seed_of(group.ids[0], 'proposals'))
            with training_flags(self.model, True):
                batch = self.preprocess(group.pixels, samples)
                proposed = self._propose(batch) or []
            stats.queries += len(proposed)
            for sample, instances in zip(samples, proposed):
                sample.proposals = instances
        return samples

    def _propose(self, batch: dict) -> list | None:
        """What the RPN proposes in training for each image; ``None`` without an RPN."""
        model = self.model
        if not hasattr(model, 'rpn_head') or not hasattr(model, 'roi_head'):
            return None
        samples = copy.deepcopy(batch['data_samples'])
        for sample in samples:  # for an RPN there is one class
            sample.gt_instances.labels.zero_()
        cfg = model.train_cfg.get('rpn_proposal', model.test_cfg.rpn)
        with torch.no_grad():
            features = model.extract_feat(batch['inputs'])
            return model.rpn_head.loss_and_predict(features, samples, proposal_cfg=cfg)[
                1
            ]

    def image_losses(self, batch: dict, seeds: Sequence[int], objective: str) -> Tensor:
        """See :meth:`Oracle.image_losses`.

        If a sample has ``proposals``, they take the place of the RPN's.
        """
        inputs = batch['inputs']
        extract_feat = getattr(self.model, 'extract_feat', None)
        features = None if extract_feat is None else extract_feat(inputs)
        goal, values = OBJECTIVES[objective], []
        for i, (sample, seed) in enumerate(zip(batch['data_samples'], seeds)):
            image = inputs[i : i + 1]
            torch.manual_seed(seed)
            with ExitStack() as stack:
                if features is not None:
                    stack.enter_context(self._known(image, _take(features, i)))
                if 'proposals' in sample:
                    stack.enter_context(self._given(sample.proposals))
                if goal.balanced:
                    labels = sample.gt_instances.labels
                    stack.enter_context(balanced_classes(self.model, labels))
                losses = self._loss(image, sample, objective)
            values.append(goal.sign * sum_losses(losses, objective))
        return torch.stack(values)

    @contextmanager
    def _known(self, image: Tensor, features) -> Iterator[None]:
        """Let ``extract_feat`` know the features of one image."""
        extract_feat = self.model.extract_feat

        def known(x, *args, **kwargs):
            return features if x is image else extract_feat(x, *args, **kwargs)

        with replaced(self.model, 'extract_feat', known):
            yield

    def _given(self, proposals):
        """Let the RPN propose what is given; its own losses stay."""
        rpn = getattr(self.model, 'rpn_head', None)
        if not hasattr(rpn, 'loss_and_predict'):
            return nullcontext()
        predict = rpn.loss_and_predict

        def given(*args, **kwargs):
            # A copy: the RoI head renames the fields.
            return predict(*args, **kwargs)[0], [proposals.clone()]

        return replaced(rpn, 'loss_and_predict', given)

    def _loss(self, image: Tensor, sample, objective: str) -> dict:
        try:
            return self.model.loss(image, [sample])
        except (AssertionError, IndexError) as error:
            if OBJECTIVES[objective].truth is not without_objects:
                raise
            raise ValueError(
                f'{type(self.model).__name__} has no loss for an image without '
                "objects; use 'total', 'cls', 'reg', 'cwa' or 'mislabel', not "
                f'{objective!r}.'
            ) from error


def _take(features, i: int):
    """Image ``i`` of nested batched features, as a batch of one."""
    if isinstance(features, Tensor):
        return features[i : i + 1]
    if isinstance(features, dict):
        return {key: _take(value, i) for key, value in features.items()}
    return type(features)(_take(value, i) for value in features)


def to_input_scale(sample, gt_scale: str):
    """Copy a data sample with its ground truth where the model sees it.

    mmdet's test pipelines load boxes after ``Resize``: they stay at the scale of
    the file, for the metric. A loss needs them at the scale (and flip) of the input.

    Args:
        sample: Data sample of a detector; it is left as it is.
        gt_scale: ``'original'``: boxes are at the scale of the file. ``'input'``: they
            went through ``Resize`` already.

    Raises:
        ValueError: If the sample has no ground truth, or does not say its scale.
    """
    sample = copy.deepcopy(sample)
    if 'gt_instances' not in sample and 'gt_label' not in sample:
        raise ValueError(
            'An attack needs ground truth; add LoadAnnotations(with_bbox=True) to the '
            'test pipeline (after Resize) so that data samples have gt_instances.'
        )
    for key in ('gt_instances', 'ignored_instances'):
        if key in sample and 'bboxes' in sample.get(key):
            _rescale(sample.get(key), sample.metainfo, gt_scale)
    return sample


def _rescale(instances, meta: dict, gt_scale: str) -> None:
    """Move boxes and masks from the scale of the file to that of the input."""
    boxes = HorizontalBoxes(get_box_tensor(instances.bboxes).clone().float())
    if gt_scale == 'original':
        scale = meta.get('scale_factor')
        if scale is None and meta.get('ori_shape') != meta.get('img_shape'):
            raise ValueError(
                'The image was resized but its data sample has no scale_factor; '
                "add 'scale_factor' to the meta_keys of PackDetInputs."
            )
        if scale is not None:
            boxes.rescale_(tuple(scale))
        if meta.get('flip'):
            boxes.flip_(meta['img_shape'], meta['flip_direction'])
        if 'masks' in instances:
            masks = instances.masks.resize(tuple(meta['img_shape']))
            if meta.get('flip'):
                masks = masks.flip(meta['flip_direction'])
            instances.masks = masks
    instances.bboxes = boxes.tensor
