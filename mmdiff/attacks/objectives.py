"""What an attack ascends: the losses of an mm model, image by image."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from mmdet.structures.bbox import HorizontalBoxes, get_box_tensor
from torch import Tensor, nn

# Parts of the names of losses. RPN losses count for `total` only: the published
# attacks A_cls and A_reg take the losses of the final head.
REG = ('loss_bbox', 'loss_iou', 'loss_reg', 'loss_xy', 'loss_wh', 'loss_dfl')
TERMS = {'total': ('loss',), 'cls': ('loss_cls',), 'reg': REG}
TERMS['head'] = TERMS['cls'] + REG


def without_objects(sample, model: nn.Module, seed: int):
    """The sample with empty ground truth."""
    sample.gt_instances = sample.gt_instances[:0]
    if 'ignored_instances' in sample:
        sample.ignored_instances = sample.ignored_instances[:0]
    return sample


def with_wrong_labels(sample, model: nn.Module, seed: int):
    """The sample with its classes shifted around the list by one seeded number."""
    classes = num_classes(model)
    if classes < 2:
        raise ValueError("objective='mislabel' needs two classes; use 'vanishing'.")
    generator = torch.Generator().manual_seed(seed)
    shift = int(torch.randint(1, classes, (), generator=generator))
    sample.gt_instances.labels = (sample.gt_instances.labels + shift) % classes
    return sample


@dataclass(frozen=True)
class Objective:
    """Losses to ascend (``sign`` 1) or descend (-1), against which ground truth."""

    terms: str = 'total'
    sign: int = 1
    truth: Callable | None = None
    balanced: bool = False


OBJECTIVES = {
    'total': Objective(),
    'cls': Objective('cls'),
    'reg': Objective('reg'),
    'cwa': Objective('head', balanced=True),
    'untargeted': Objective(),
    'vanishing': Objective(sign=-1, truth=without_objects),
    'fabrication': Objective(truth=without_objects),
    'mislabel': Objective(sign=-1, truth=with_wrong_labels),
}


def num_classes(model: nn.Module) -> int:
    """Classes of a model's final head.

    Raises:
        ValueError: If no head says.
    """
    for name, module in model.named_modules():
        found = getattr(module, 'num_classes', None)
        if 'head' in name and 'rpn' not in name and isinstance(found, int):
            return found
    raise ValueError(f'No head of {type(model).__name__} has num_classes.')


def prepare(sample, model: nn.Module, name: str, seed: int):
    """Copy a sample (see :func:`to_input_scale`), with the objective's ground truth.

    Raises:
        ValueError: If the objective is about boxes and there are none.
    """
    truth = OBJECTIVES[name].truth
    if (truth or OBJECTIVES[name].balanced) and 'gt_instances' not in sample:
        raise ValueError(
            f"objective={name!r} is about boxes and this model has none; use 'total'."
        )
    sample = copy.deepcopy(sample)
    return sample if truth is None else truth(sample, model, seed)


def objective(losses: dict, name: str) -> Tensor:
    """Sum the losses that belong to an objective, as they are (without its sign).

    Args:
        losses: As a model's ``loss()`` gives them: tensors or lists of tensors; names
            without ``loss`` (accuracies) do not count.
        name: One of ``OBJECTIVES``.

    Raises:
        ValueError: If the model has no such loss.
    """

    def taken(terms: str) -> list:
        head = [key for key in losses if terms == 'total' or 'rpn' not in key]
        return [losses[k] for k in head if any(term in k for term in TERMS[terms])]

    found = taken(OBJECTIVES[name].terms)
    if not found:
        usable = [repr(k) for k, goal in OBJECTIVES.items() if taken(goal.terms)]
        raise ValueError(
            f'This model has no loss for objective={name!r}, only '
            f'{", ".join(losses)}; use objective={" or ".join(usable)}.'
        )
    parts = [
        v for value in found for v in (value if isinstance(value, list) else [value])
    ]
    return torch.stack([part.mean() for part in parts]).sum()


def to_input_scale(sample, gt_scale: str):
    """Copy a data sample with its ground truth where the model sees it.

    mmdet's test pipelines load boxes after ``Resize``: they stay at the scale of
    the file, for the metric. A loss needs them at the scale (and flip) of the input.

    Args:
        sample: Data sample of a detector or a classifier; it is left as it is.
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
    meta = sample.metainfo
    for key in ('gt_instances', 'ignored_instances'):
        if key not in sample or 'bboxes' not in sample.get(key):
            continue
        instances = sample.get(key)
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
    return sample


def _take(features, i: int):
    """Image ``i`` of nested batched features, as a batch of one."""
    if isinstance(features, Tensor):
        return features[i : i + 1]
    if isinstance(features, dict):
        return {key: _take(value, i) for key, value in features.items()}
    return type(features)(_take(value, i) for value in features)


@contextmanager
def replaced(owner: nn.Module, name: str, function: Callable) -> Iterator[None]:
    """``owner.name`` is ``function`` for a while."""
    setattr(owner, name, function)
    try:
        yield
    finally:
        delattr(owner, name)


@contextmanager
def balanced_classes(model: nn.Module, labels: Tensor) -> Iterator[None]:
    """Class-wise attack (CWA, Chen et al. 2021): frequent classes do not dominate.

    Each class of the image counts the same in the final head's classification losses:
    objects of class c weigh ``N / (C n_c)``, with N objects of C classes in the image,
    n_c of them of c; background weighs 1.
    """
    present, counts = labels.unique(return_counts=True)

    def balanced(forward, pred, target, weight=None, *args, **kwargs):
        shown = target[0] if isinstance(target, tuple) else target
        if shown.is_floating_point() or shown.ndim != 1:
            raise ValueError(
                "objective='cwa' weights classification losses by label, which this "
                "head's does not take; use 'total', 'cls' or 'reg'."
            )
        share = pred.new_ones(shown.shape)
        for label, count in zip(present, counts):
            share[shown == label] = len(labels) / (len(present) * count)
        weight = share if weight is None else weight * share
        return forward(pred, target, weight, *args, **kwargs)

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name.endswith('loss_cls') and 'rpn' not in name:
                weighted = partial(balanced, module.forward)
                stack.enter_context(replaced(module, 'forward', weighted))
        yield


def find_proposals(model: nn.Module, batch: dict) -> list | None:
    """What the RPN proposes in training for each image; ``None`` without an RPN."""
    if not hasattr(model, 'rpn_head') or not hasattr(model, 'roi_head'):
        return None
    samples = copy.deepcopy(batch['data_samples'])
    for sample in samples:  # for an RPN there is one class
        sample.gt_instances.labels.zero_()
    cfg = model.train_cfg.get('rpn_proposal', model.test_cfg.rpn)
    with torch.no_grad():
        features = model.extract_feat(batch['inputs'])
        return model.rpn_head.loss_and_predict(features, samples, proposal_cfg=cfg)[1]


def image_losses(
    model: nn.Module, batch: dict, seeds: Sequence[int], name: str
) -> Tensor:
    """Objective of every image, (N,), as if it were alone in the batch.

    Detectors normalise losses by the positives of the whole batch and sample anchors
    from a shared generator; an attack whose result depends on what else is in the batch
    cannot be reproduced. So backbone and neck run on the batch, the heads on one image
    after the other, each from its own seed.

    Args:
        model: Any mm model with ``loss``.
        batch: Output of its ``data_preprocessor``. If a sample has ``proposals``, they
            take the place of the RPN's.
        seeds: Seed of the heads' random sampling, one per image.
        name: One of ``OBJECTIVES``.

    Raises:
        ValueError: If the model has no loss for this objective.
    """
    inputs, goal = batch['inputs'], OBJECTIVES[name]
    rpn = getattr(model, 'rpn_head', None)
    extract_feat = getattr(model, 'extract_feat', None)
    features = None if extract_feat is None else extract_feat(inputs)
    predict = getattr(rpn, 'loss_and_predict', None)
    values = []
    for i, (sample, seed) in enumerate(zip(batch['data_samples'], seeds)):
        image = inputs[i : i + 1]

        def known(x, *args, image=image, i=i, **kwargs):
            return (
                _take(features, i) if x is image else extract_feat(x, *args, **kwargs)
            )

        def given(*args, sample=sample, **kwargs):
            # A copy: the RoI head renames the fields.
            return predict(*args, **kwargs)[0], [sample.proposals.clone()]

        torch.manual_seed(seed)
        with ExitStack() as stack:
            if extract_feat is not None:
                stack.enter_context(replaced(model, 'extract_feat', known))
            if predict is not None and 'proposals' in sample:
                stack.enter_context(replaced(rpn, 'loss_and_predict', given))
            if goal.balanced:
                labels = sample.gt_instances.labels
                stack.enter_context(balanced_classes(model, labels))
            try:
                losses = model.loss(image, [sample])
            except (AssertionError, IndexError) as error:
                if goal.truth is not without_objects:
                    raise
                raise ValueError(
                    f'{type(model).__name__} has no loss for an image without objects; '
                    f"use 'total', 'cls', 'reg', 'cwa' or 'mislabel', not {name!r}."
                ) from error
        values.append(goal.sign * objective(losses, name))
    return torch.stack(values)
