"""Ground truth of detectors at the scale of the input, on copies."""

import copy
from typing import Any

from mmdet.structures.bbox import HorizontalBoxes, get_box_tensor
from torch import Tensor

from .frame import Region, image_region


def to_input_scale(sample: Any, gt_scale: str) -> Any:
    """Copy a data sample with its ground truth where the model sees it.

    mmdet's test pipelines load boxes after ``Resize``: they stay at the scale of
    the file, for the metric. A loss needs them at the scale, flip and place of the
    input.

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
    meta = sample.metainfo
    for key in ('gt_instances', 'ignored_instances'):
        if key not in sample or 'bboxes' not in sample.get(key):
            continue
        instances = sample.get(key)
        boxes = HorizontalBoxes(get_box_tensor(instances.bboxes).clone().float())
        instances.bboxes = boxes.tensor
        if gt_scale == 'original':
            check_scale(meta)
            region = image_region(meta, tuple(meta['img_shape'][:2]))
            instances.bboxes = _place_boxes(boxes, meta, region)
            if 'masks' in instances:
                instances.masks = _place_masks(instances.masks, meta, region)
    return sample


def check_scale(meta: dict) -> None:
    """Complain about an image that was resized by nobody knows how much.

    Raises:
        ValueError: If neither scale nor place of the image in the input is known.
    """
    known = meta.get('scale_factor') is not None or meta.get('border') is not None
    if not known and meta.get('ori_shape') != meta.get('img_shape'):
        raise ValueError(
            'The image was resized but its data sample has no scale_factor; '
            "add 'scale_factor' to the meta_keys of PackDetInputs."
        )


def _place_boxes(boxes: HorizontalBoxes, meta: dict, region: Region) -> Tensor:
    if meta.get('scale_factor') is not None:
        boxes.rescale_(tuple(meta['scale_factor']))
    if meta.get('flip'):  # before Pad, as in mmdet's pipelines
        boxes.flip_(region.shape, meta['flip_direction'])
    if region.left or region.top:
        boxes.translate_((region.left, region.top))
    return boxes.tensor


def _place_masks(masks: Any, meta: dict, region: Region) -> Any:
    """Resize masks to the image, not to its padding; then pad as it is padded."""
    masks, shape = masks.resize(region.shape), tuple(meta['img_shape'][:2])
    if meta.get('flip'):
        masks = masks.flip(meta['flip_direction'])
    if region.shape != shape:
        masks = masks.pad(shape)
    for offset, direction in ((region.left, 'horizontal'), (region.top, 'vertical')):
        if offset:
            masks = masks.translate(shape, offset, direction)
    return masks
