"""Ground truth of detectors at the scale of the input, on copies."""

import copy
from typing import Any

import torch.nn.functional as F
from mmdet.structures.bbox import HorizontalBoxes, get_box_tensor
from torch import Tensor

from .frame import Region, image_region, scale_of


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
            region = image_region(meta, tuple(meta['img_shape'][:2]))
            instances.bboxes = _place_boxes(boxes, meta, region)
            if 'masks' in instances:
                instances.masks = _place_masks(instances.masks, meta, region)
    if gt_scale == 'original' and 'gt_sem_seg' in sample:
        region = image_region(meta, tuple(meta['img_shape'][:2]))
        classes = _place_map(sample.gt_sem_seg.sem_seg, meta, region)
        sample.gt_sem_seg = type(sample.gt_sem_seg)(sem_seg=classes)
    return sample


def _place_boxes(boxes: HorizontalBoxes, meta: dict, region: Region) -> Tensor:
    scale = scale_of(meta)
    if scale is not None:
        boxes.rescale_(scale)
    if meta.get('flip'):  # before Pad, as in mmdet's pipelines
        boxes.flip_(region.shape, meta['flip_direction'])
    if region.left or region.top:
        boxes.translate_((region.left, region.top))
    return boxes.tensor


def _place_map(classes: Tensor, meta: dict, region: Region) -> Tensor:
    """Resize a map of classes, (1, H, W), to the image; padding is ignored (255)."""
    resized = F.interpolate(classes[None].float(), region.shape, mode='nearest')
    placed = resized[0].to(classes)
    for axis, direction in ((2, 'horizontal'), (1, 'vertical')):
        if meta.get('flip') and meta['flip_direction'] in (direction, 'diagonal'):
            placed = placed.flip(axis)
    height, width = meta['img_shape'][:2]
    below, right = height - region.top - region.height, width - region.left
    sides = region.left, right - region.width, region.top, below
    return F.pad(placed, sides, value=255)


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
