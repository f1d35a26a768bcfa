"""What an attack ascends: the losses of an mm model, image by image."""

import copy
from collections.abc import Sequence

import torch
from mmdet.structures.bbox import HorizontalBoxes, get_box_tensor
from torch import Tensor, nn

# Parts of the names of losses. RPN losses count for `total` only: the published
# attacks A_cls and A_reg take the losses of the final head.
TERMS = {
    'total': ('loss',),
    'cls': ('loss_cls',),
    'reg': ('loss_bbox', 'loss_iou', 'loss_reg', 'loss_xy', 'loss_wh', 'loss_dfl'),
}


def objective(losses: dict, name: str) -> Tensor:
    """Sum the losses that belong to an objective.

    Args:
        losses: As a model's ``loss()`` gives them: tensors or lists of tensors; names
            without ``loss`` (accuracies) do not count.
        name: ``total``, ``cls`` or ``reg``.

    Raises:
        ValueError: If the model has no such loss.
    """
    taken = [
        value
        for key, value in losses.items()
        if any(term in key for term in TERMS[name])
        and (name == 'total' or 'rpn' not in key)
    ]
    if not taken:
        raise ValueError(
            f'This model has no loss for objective={name!r}, only '
            f"{', '.join(losses)}; use objective='total'."
        )
    parts = [
        v for value in taken for v in (value if isinstance(value, list) else [value])
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
        batch: Output of its ``data_preprocessor``.
        seeds: Seed of the heads' random sampling, one per image.
        name: See :func:`objective`.
    """
    inputs, samples = batch['inputs'], batch['data_samples']
    extract_feat = getattr(model, 'extract_feat', None)
    features = None if extract_feat is None else extract_feat(inputs)
    values = []
    for i, (sample, seed) in enumerate(zip(samples, seeds)):
        image = inputs[i : i + 1]
        torch.manual_seed(seed)
        if features is None:
            losses = model.loss(image, [sample])
        else:

            def known(x, *args, image=image, i=i, **kwargs):
                if x is image:
                    return _take(features, i)
                return extract_feat(x, *args, **kwargs)

            model.extract_feat = known
            try:
                losses = model.loss(image, [sample])
            finally:
                del model.extract_feat
        values.append(objective(losses, name))
    return torch.stack(values)
