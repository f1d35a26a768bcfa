"""Does the loss hear of every object, and where it is?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median_low
from typing import Any

import torch
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from torch import Tensor

from mmdiff.utils.modules import seed_all
from mmdiff.utils.seeding import mix_seed

from ..errors import NotApplicable
from ..oracle import Frame, ImageGroup, Oracle
from ..oracle.frame import scale_of
from ..result import AttackStats
from .findings import ModelProbe

# Objects of one image that are moved, at most: some photographs show dozens.
OBJECTS = 8
# By which share of its size an object is moved.
SHIFT = 0.25
# Scales at which boxes may have reached the loss by mistake, beside the image's own.
SCALES = (0.5, 2.0)
# By how much all classes may have been shifted by mistake, as by a background class.
SHIFTS = (-1, 1)
# Overlap of an object with itself, after rounding of sizes of images.
SAME = 0.8


def probe_truth(oracle: Oracle, batch: dict, probe: ModelProbe) -> None:
    """Look whether the loss is told of all objects, and listens.

    Handing the truth over and listening to it are two things: objects that were handed
    over are compared with those of the metric, and each of them is moved (and given
    another class): a loss that stays the same to the last bit ignores it.

    Args:
        oracle: Oracle of a detector; others have no objects and are not asked.
        batch: A batch of a few images, as the dataloader gives it.
        probe: Takes the findings.
    """
    if oracle.task != 'detection':
        return
    images, fits = oracle.gather(batch), []
    with oracle.attacked():
        for i, sample in enumerate(batch['data_samples']):
            if 'gt_instances' not in sample or 'bboxes' not in sample.gt_instances:
                continue
            image = images.take([i])
            _compare(sample, image, oracle.gt_scale, probe)
            try:
                fits.append(_Moves(oracle, image, probe).run())
            except NotApplicable:  # attacks say so themselves
                return
    probe.fit = _middle([scales for scales, _ in fits])
    probe.fit_classes = _middle([classes for _, classes in fits])


def _middle(fits: list[dict[str, float]]) -> dict[str, float]:
    """The lower median over images: what one of them shows may be chance."""
    names = dict.fromkeys(name for fit in fits for name in fit)
    return {name: median_low([f[name] for f in fits if name in f]) for name in names}


def _ratio(loss: float, other: float) -> float:
    """How many times higher a loss is than another one; 1 if that is no number."""
    ratio = loss / max(other, 1e-30)
    return ratio if math.isfinite(ratio) else 1.0


def _compare(sample: Any, image: ImageGroup, gt_scale: str, probe: ModelProbe) -> None:
    """Compare objects handed over with those of the metric, at the file's scale."""
    known = get_box_tensor(sample.gt_instances.bboxes).float().cpu()
    handed = image.samples[0].gt_instances.bboxes.float().cpu()
    if gt_scale == 'original':
        handed = _at_file_scale(handed, image.frames[0], sample.metainfo)
    probe.objects += len(known)
    probe.objects_handed += len(handed)
    if len(known) and len(handed):
        overlaps = bbox_overlaps(handed, known).amax(1)
        probe.objects_misplaced += int((overlaps < SAME).sum())
    else:
        probe.objects_misplaced += len(handed)


def _at_file_scale(boxes: Tensor, frame: Frame, meta: dict) -> Tensor:
    """Undo by arithmetic of its own what brings boxes to the scale of the input."""
    region = frame.region
    boxes = boxes - boxes.new_tensor([region.left, region.top] * 2)
    direction = meta['flip_direction'] if meta.get('flip') else ''
    left, top, right, bottom = boxes.unbind(1)
    if direction in ('horizontal', 'diagonal'):
        left, right = region.width - right, region.width - left
    if direction in ('vertical', 'diagonal'):
        top, bottom = region.height - bottom, region.height - top
    boxes = torch.stack([left, top, right, bottom], 1)
    return boxes / boxes.new_tensor([*(scale_of(meta) or (1.0, 1.0))] * 2)


class _Moves:
    """Losses of one image against its truth, changed in one way at a time.

    Args:
        oracle: Oracle of a detector.
        image: The image.
        probe: Takes what was found.
    """

    def __init__(self, oracle: Oracle, image: ImageGroup, probe: ModelProbe) -> None:
        self.oracle, self.image, self.probe = oracle, image, probe
        self.stats = AttackStats()

    def run(self) -> tuple[dict[str, float], dict[str, float]]:
        """Move each object; then see how other scales and classes fit.

        Returns:
            See :attr:`ModelProbe.fit` and :attr:`ModelProbe.fit_classes`.
        """
        before = self._loss(lambda objects: None)
        objects = self.image.samples[0].gt_instances
        for k in range(min(OBJECTS, len(objects))):
            moved = self._loss(partial(self._move, k=k))
            self.probe.objects_ignored += int(torch.equal(moved, before))
        fit: dict[str, float] = {}
        fit_classes: dict[str, float] = {}
        if len(objects):
            fit = {k: self._fit(before, v) for k, v in self._scales().items()}
            fit_classes = self._fit_classes()
        self.probe.passes += self.stats.queries
        return fit, fit_classes

    def _fit(self, before: Tensor, factors: tuple[float, float]) -> float:
        """How another scale fits, compared with the truth and with boxes elsewhere."""
        change = partial(self._scale, factors=factors)
        there = self._loss(partial(change, elsewhere=False)).item()
        fit = _ratio(before.item(), there)
        if fit > 1:  # it may be high for no reason but the size of the boxes
            elsewhere = self._loss(partial(change, elsewhere=True)).item()
            fit = min(fit, _ratio(elsewhere, there))
        return fit

    def _fit_classes(self) -> dict[str, float]:
        """How other classes fit, by what says so most plainly: losses of classes."""
        if self.oracle.num_classes <= max(map(abs, SHIFTS)) + 1:
            return {}
        try:
            true = self._loss(lambda objects: None, 'cls').item()
        except NotApplicable:  # its losses have other names
            return {}
        others = (
            self._loss(partial(self._relabel, shift=shift), 'cls') for shift in SHIFTS
        )
        return {
            f'{k:+}': _ratio(true, other.item()) for k, other in zip(SHIFTS, others)
        }

    def _scales(self) -> dict[str, tuple[float, float]]:
        """Factors of width and height, by name."""
        scales = {f'{scale:g}': (scale, scale) for scale in SCALES}
        known = scale_of(self.image.samples[0].metainfo) or (1.0, 1.0)
        if max(known) > 1.3 or min(known) < 0.77:
            scales['input'] = known
            scales['file'] = 1 / known[0], 1 / known[1]
        return scales

    def _loss(self, change: Callable[[Any], None], objective: str = 'total') -> Tensor:
        sample = copy.deepcopy(self.image.samples[0])
        change(sample.gt_instances)
        group = replace(self.image, samples=[sample])
        question = self.oracle.ask(
            group,
            self.stats,
            lambda *choice: mix_seed(0, *choice),
            objective,
            # Those of the image, which stays: fixed ones are no others, at more passes.
            proposals='moving',
        )
        seed_all(0)
        loss = question.losses(group.pixels, 0, 0)
        self.oracle.reset()
        return loss

    def _relabel(self, objects: Any, shift: int) -> None:
        objects.labels = (objects.labels + shift) % self.oracle.num_classes

    def _move(self, objects: Any, k: int) -> None:
        """Move one object towards the middle of the image; give it another class."""
        boxes, region = objects.bboxes, self.image.frames[0].region
        size = boxes[k, 2:] - boxes[k, :2]
        middle = boxes.new_tensor([region.width / 2, region.height / 2])
        centre = (boxes[k, 2:] + boxes[k, :2]) / 2
        way = torch.where(centre < middle, 1, -1) * SHIFT * size
        boxes[k] = boxes[k] + torch.cat([way, way])
        objects.labels[k] = (objects.labels[k] + 1) % self.oracle.num_classes

    def _scale(
        self, objects: Any, factors: tuple[float, float], elsewhere: bool
    ) -> None:
        """Scale all boxes, or boxes of their sizes half an image away.

        These tell whether it is the scale that lowers a loss: boxes that no anchor
        point is assigned to lower it anywhere.
        """
        boxes, region = objects.bboxes, self.image.frames[0].region
        if elsewhere:
            side = boxes.new_tensor([region.width, region.height])
            centres = (boxes[:, :2] + boxes[:, 2:]) / 2
            way = (centres + side / 2) % side - centres
            boxes = boxes + way.repeat(1, 2)
        objects.bboxes = boxes * boxes.new_tensor([*factors] * 2)
