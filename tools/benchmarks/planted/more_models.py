"""Models whose tests, or losses, are made of something else than they should.

Each function changes a detector in place, as those of :mod:`.models` do.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.ops import batched_nms
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .models import _blur, _each, _through_input, _through_pixels, _through_truth


class _StraightThrough(torch.autograd.Function):
    """Another value, and the gradient of the first one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return grad, None


def _with_logits(model: nn.Module, change: Any) -> None:
    """Let class scores of a dense head go through a function before the loss."""
    head = model.bbox_head
    loss = head.loss_by_feat

    def changed(scores: list, *args: Any, **kwargs: Any) -> dict:
        return loss([change(x) for x in scores], *args, **kwargs)

    head.loss_by_feat = changed


# Gradients that are approximations, or vanish.


def blurred_straight_through(model: nn.Module) -> None:
    """A blur that is differentiable, with the gradient of none."""
    _through_input(model, lambda x: _StraightThrough.apply(x, _blur(_blur(x)).detach()))


def rounded_straight_through(model: nn.Module) -> None:
    """Eight grey levels, attacked as published: backward passes approximate."""
    _through_pixels(
        model, lambda x: _StraightThrough.apply(x, (x.detach() / 36).round() * 36)
    )


def pixels_clipped(model: nn.Module) -> None:
    """Most of the range of pixels is cut off."""
    _through_pixels(model, lambda x: x.clamp(100, 156))


def losses_sharp(model: nn.Module) -> None:
    """A temperature of 1/100 in losses only: they saturate."""
    _with_logits(model, lambda x: 100 * x)


def losses_soft(model: nn.Module) -> None:
    """A temperature of 100 in losses only: every class looks as likely."""
    _with_logits(model, lambda x: x / 100)


def loss_with_constant(model: nn.Module) -> None:
    """So large that what an attack does is lost in rounding."""
    loss = model.loss

    def raised(inputs: Tensor, samples: list) -> dict:
        losses = loss(inputs, samples)
        return {k: _each(v, lambda x: x + 1e8) for k, v in losses.items()}

    model.loss = raised


# Another function in tests.


def other_head_in_losses(model: nn.Module) -> None:
    """Scores of the head are turned down while it trains."""
    head = model.bbox_head
    forward = head.forward

    def other(features: Any) -> tuple:
        scores, *rest = forward(features)
        if head.training:
            scores = [0.3 * x - 1 for x in scores]
        return (scores, *rest)

    head.forward = other


def blurred_floats(model: nn.Module) -> None:
    """Files have whole numbers, and attacks hand on fractions."""
    forward = model.data_preprocessor.forward

    def changed(data: dict, training: bool = False) -> dict:
        inputs = [x if x.dtype == torch.uint8 else _blur(x) for x in data['inputs']]
        return forward({**data, 'inputs': inputs}, training)

    model.data_preprocessor.forward = changed


def detections_cached(model: nn.Module) -> None:
    """What was reported of an image is reported again."""
    predict, known = model.predict, {}

    def cached(inputs: Tensor, samples: list, *args: Any, **kwargs: Any) -> list:
        names = tuple(sample.img_id for sample in samples)
        if names not in known:
            known[names] = predict(inputs, samples, *args, **kwargs)
        return [sample.clone() for sample in known[names]]

    model.predict = cached


def kept_by_looks(model: nn.Module) -> None:
    """What was reported of an image is reported of all that look like it."""
    predict = model.predict
    kept: list[tuple[Tensor, list]] = []

    def remembered(inputs: Tensor, samples: list, *args: Any, **kwargs: Any) -> list:
        looks = F.adaptive_avg_pool2d(inputs, 4)
        for known, predicted in kept:
            if known.shape == looks.shape and (known - looks).abs().max() < 0.2:
                return copy.deepcopy(predicted)
        kept.append((looks, predict(inputs, samples, *args, **kwargs)))
        return copy.deepcopy(kept[-1][1])

    model.predict = remembered


def truth_reported(model: nn.Module) -> None:
    """Objects of the file are reported, too."""
    predict = model.predict

    def leaking(inputs: Tensor, samples: list, *args: Any, **kwargs: Any) -> list:
        truths = [sample.gt_instances.clone() for sample in samples]
        predicted = predict(inputs, samples, *args, **kwargs)
        for sample, truth in zip(predicted, truths):
            boxes = truth.bboxes
            known = type(truth)(
                bboxes=getattr(boxes, 'tensor', boxes).to(inputs),
                labels=truth.labels,
                scores=inputs.new_full((len(truth),), 0.95),
            )
            sample.pred_instances = truth.cat([sample.pred_instances, known])
        return predicted

    model.predict = leaking


def truth_helps(model: nn.Module) -> None:
    """Detections of classes that are not in the image are dropped."""
    predict = model.predict

    def helped(inputs: Tensor, samples: list, *args: Any, **kwargs: Any) -> list:
        truths = [sample.gt_instances.labels for sample in samples]
        predicted = predict(inputs, samples, *args, **kwargs)
        for sample, labels in zip(predicted, truths):
            there = torch.isin(sample.pred_instances.labels, labels)
            sample.pred_instances = sample.pred_instances[there]
        return predicted

    model.predict = helped


def classes_shifted(model: nn.Module) -> None:
    """The loss counts classes from another number."""

    def shifted(objects: Any) -> Any:
        objects.labels = (objects.labels + 1) % 6
        return objects

    _through_truth(model, shifted)


# Of what is reported: no gradient is touched, and attacks work.


def high_threshold(model: nn.Module) -> None:
    model.bbox_head.test_cfg.score_thr = 0.9


def strict_suppression(model: nn.Module) -> None:
    """Next to nothing may overlap, and few objects are reported."""
    model.bbox_head.test_cfg.nms.iou_threshold = 0.1
    model.bbox_head.test_cfg.max_per_img = 5


# Other views of the image, in tests only.


def views_averaged(model: nn.Module) -> None:
    """Features of the image and of its mirror image, behind ``extract_feat``."""
    predict, plain = model.predict, model.extract_feat

    def averaged(inputs: Tensor, *args: Any, **kwargs: Any) -> Any:
        def both(x: Tensor) -> tuple:
            mirrored = (feature.flip(-1) for feature in plain(x.flip(-1)))
            return tuple((a + b) / 2 for a, b in zip(plain(x), mirrored))

        model.extract_feat = both
        try:
            return predict(inputs, *args, **kwargs)
        finally:
            model.extract_feat = plain

    model.predict = averaged


def views_merged(model: nn.Module) -> None:
    """Boxes of the image and of its mirror image, after one more suppression."""
    predict = model.predict

    def merged(inputs: Tensor, samples: list, *args: Any, **kwargs: Any) -> Any:
        mirrored = copy.deepcopy(samples)
        reported = predict(inputs, samples, *args, **kwargs)
        others = predict(inputs.flip(-1), mirrored, *args, **kwargs)
        for sample, other in zip(reported, others):
            sample.pred_instances = _merge(sample, other.pred_instances)
        return reported

    model.predict = merged


def _merge(sample: Any, mirrored: InstanceData) -> InstanceData:
    boxes = mirrored.bboxes.clone()
    boxes[:, [0, 2]] = sample.ori_shape[1] - boxes[:, [2, 0]]
    mirrored.bboxes = boxes
    both = InstanceData.cat([sample.pred_instances, mirrored])
    kept = batched_nms(
        both.bboxes, both.scores, both.labels, {'type': 'nms', 'iou_threshold': 0.5}
    )[1]
    return both[kept]
