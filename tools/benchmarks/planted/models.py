"""Models that are broken where an attack does not look, and harmless changes of them.

Each function changes a detector in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Reversed(torch.autograd.Function):
    """The same values, a gradient times a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return ctx.factor * grad, None


def _through_levels(model: nn.Module, change: Callable[[Tensor], Tensor], levels: Any):
    """Let features of some levels go through a function, after the neck."""
    forward = model.neck.forward

    def changed(inputs: Any) -> tuple:
        features = forward(inputs)
        return tuple(change(x) if k in levels else x for k, x in enumerate(features))

    model.neck.forward = changed


def _through_input(model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Let the preprocessed image go through a function, in every pass."""
    extract_feat = model.extract_feat
    model.extract_feat = lambda x: extract_feat(change(x))


def _through_pixels(model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Let pixel values go through a function, before they are normalised."""
    forward = model.data_preprocessor.forward

    def changed(data: dict, training: bool = False) -> dict:
        inputs = [change(x.float()) for x in data['inputs']]
        return forward({**data, 'inputs': inputs}, training)

    model.data_preprocessor.forward = changed


def _through_truth(model: nn.Module, change: Callable[[Any], Any]) -> None:
    """Let the loss see other objects than those that it is given."""
    loss = model.loss

    def changed(inputs: Tensor, samples: list) -> dict:
        samples = [sample.clone() for sample in samples]
        for sample in samples:
            sample.gt_instances = change(sample.gt_instances)
        return loss(inputs, samples)

    model.loss = changed


def _blur(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 5, 1, 2, count_include_pad=False)


# Part of the gradient missing or wrong.


def level_detached(model: nn.Module, level: int = 0) -> None:
    _through_levels(model, Tensor.detach, {level})


def all_levels_detached_but_last(model: nn.Module) -> None:
    _through_levels(model, Tensor.detach, {0, 1, 2, 3})


def backbone_without_grad(model: nn.Module, layer: str = 'layer3') -> None:
    module = getattr(model.backbone, layer)
    module.forward = torch.no_grad()(module.forward)


def whole_backbone_without_grad(model: nn.Module) -> None:
    model.backbone.forward = torch.no_grad()(model.backbone.forward)


def sign_flipped(model: nn.Module, levels: tuple = (0, 1, 2, 3, 4)) -> None:
    _through_levels(model, lambda x: _Reversed.apply(x, -1.0), levels)


def level_overweighted(model: nn.Module) -> None:
    _through_levels(model, lambda x: _Reversed.apply(x, 100.0), {3})


def head_detached(model: nn.Module) -> None:
    convs = model.bbox_head.cls_convs[0]
    forward = convs.forward
    convs.forward = lambda x: forward(x.detach())


def gradient_noise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)

    def noisy(x: Tensor) -> Tensor:
        if x.requires_grad:
            x = x.clone()
            x.register_hook(
                lambda g: (
                    g + 10 * g.std() * torch.randn(g.shape, generator=generator).to(g)
                )
            )
        return x

    _through_input(model, noisy)


def gradient_of_blurred(model: nn.Module) -> None:
    _through_input(model, lambda x: _blur(_blur(x)) + (x - _blur(_blur(x))).detach())


# Gradients hidden.


def pixels_rounded(model: nn.Module) -> None:
    _through_pixels(model, lambda x: (x / 8).round() * 8)


def pixels_rounded_in_part(model: nn.Module) -> None:
    """Fine detail goes on as it is, with a small weight."""
    _through_pixels(model, lambda x: 0.98 * (x / 16).round() * 16 + 0.02 * x)


def features_rounded(model: nn.Module) -> None:
    _through_levels(model, lambda x: (8 * x).round() / 8, range(5))


def jpeg(model: nn.Module) -> None:
    """Coefficients of 8x8 blocks, rounded coarsely."""
    k = torch.arange(8.0)
    dct = torch.cos(math.pi / 8 * (k[None] + 0.5) * k[:, None]) / 2
    dct[0] /= math.sqrt(2)

    def compressed(x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x[None], (0, -width % 8, 0, -height % 8), mode='replicate')[0]
        blocks = x.unfold(1, 8, 8).unfold(2, 8, 8)
        coefficients = dct @ blocks @ dct.T
        blocks = dct.T @ ((coefficients / 24).round() * 24) @ dct
        rows = blocks.transpose(2, 3).flatten(1, 2).flatten(2)
        return rows[:, :height, :width].clamp(0, 255)

    _through_pixels(model, compressed)


def scores_saturated(model: nn.Module, scale: float = 50.0) -> None:
    conv = model.bbox_head.conv_cls if hasattr(model.bbox_head, 'conv_cls') else None
    conv = conv or model.bbox_head.retina_cls
    conv.weight.data *= scale
    conv.bias.data *= scale


def shattered(model: nn.Module) -> None:
    _through_pixels(model, lambda x: x + 3 * torch.sin(40 * x))


def loss_flat(model: nn.Module) -> None:
    loss = model.loss

    def flat(inputs: Tensor, samples: list) -> dict:
        # Autograd finds a way to the image, along which nothing changes.
        return {
            k: _each(v, lambda x: 0 * x + 1) for k, v in loss(inputs, samples).items()
        }

    model.loss = flat


def loss_saturated(model: nn.Module) -> None:
    loss = model.loss

    def saturated(inputs: Tensor, samples: list) -> dict:
        losses = loss(inputs, samples)
        return {k: _each(v, lambda x: torch.tanh(1e4 * x)) for k, v in losses.items()}

    model.loss = saturated


def loss_rounded(model: nn.Module) -> None:
    """To halves, but for a slope that is small and right: attacks follow its sign."""
    loss = model.loss

    def rounded(inputs: Tensor, samples: list) -> dict:
        def coarse(x: Tensor) -> Tensor:
            return (x * 2).round() / 2 + 1e-4 * x

        return {k: _each(v, coarse) for k, v in loss(inputs, samples).items()}

    model.loss = rounded


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, list | tuple):
        return [change(x) for x in value]
    return change(value)


def not_a_number(model: nn.Module) -> None:
    """The root of 0: finite values, an infinite slope."""
    _through_input(model, lambda x: x + 0 * (x - x.detach()).abs().sqrt())


# Another function under attack.


def blurred_with_gradients(model: nn.Module) -> None:
    _through_input(model, lambda x: _blur(x) if torch.is_grad_enabled() else x)


def blurred_without_gradients(model: nn.Module) -> None:
    _through_input(model, lambda x: x if torch.is_grad_enabled() else _blur(x))


def other_loss_with_gradients(model: nn.Module) -> None:
    loss = model.loss

    def other(inputs: Tensor, samples: list) -> dict:
        losses = loss(inputs, samples)
        if inputs.requires_grad:
            losses = {k: _each(v, lambda x: 1 / (1 + x)) for k, v in losses.items()}
        return losses

    model.loss = other


def dropout_under_attack(model: nn.Module) -> None:
    def dropped(x: Tensor) -> Tensor:
        if not model.training:
            return x
        return x * (torch.rand(x.shape) > 0.3).to(x)

    _through_levels(model, dropped, range(5))


def batch_statistics_under_attack(model: nn.Module) -> None:
    norm = model.backbone.bn1
    norm.forward = lambda x: F.batch_norm(
        x,
        norm.running_mean.clone(),
        norm.running_var.clone(),
        norm.weight,
        norm.bias,
        model.training,
    )


def other_normalisation_under_attack(model: nn.Module) -> None:
    _through_pixels(model, lambda x: x / 2 if torch.is_grad_enabled() else x)


def other_normalisation_in_losses(model: nn.Module) -> None:
    loss = model.loss
    model.loss = lambda x, samples: loss(x, samples)
    _through_input(model, lambda x: x * 0.5 if model.training else x)


def purified_in_tests_only(model: nn.Module) -> None:
    predict = model.predict
    model.predict = lambda x, *args, **kwargs: predict(_blur(x), *args, **kwargs)


def noise_of_its_own(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)

    def noisy(x: Tensor) -> Tensor:
        return x + 0.2 * torch.randn(x.shape, generator=generator).to(x)

    _through_input(model, noisy)


def fresh_noise(model: nn.Module, size: float = 0.2) -> None:
    """Of the global generator: harmless where attacks average over it."""
    _through_input(model, lambda x: x + size * torch.randn_like(x))


# Another truth.


def every_other_object(model: nn.Module) -> None:
    _through_truth(model, lambda objects: objects[::2])


def first_half_of_objects(model: nn.Module) -> None:
    _through_truth(model, lambda objects: objects[: (len(objects) + 1) // 2])


def largest_object_only(model: nn.Module) -> None:
    def largest(objects: Any) -> Any:
        boxes = objects.bboxes
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        return objects[areas.argsort(descending=True)[:1]]

    _through_truth(model, largest)


def boxes_at_half_scale(model: nn.Module) -> None:
    def halved(objects: Any) -> Any:
        objects.bboxes = objects.bboxes / 2
        return objects

    _through_truth(model, halved)


def boxes_at_twice_the_scale(model: nn.Module) -> None:
    def doubled(objects: Any) -> Any:
        objects.bboxes = objects.bboxes * 2
        return objects

    _through_truth(model, doubled)


# Harmless changes.


def blurred(model: nn.Module) -> None:
    _through_input(model, lambda x: x + 0.3 * (_blur(x) - x))


def gradient_rescaled(model: nn.Module) -> None:
    """All of it alike: its direction stays."""
    _through_input(model, lambda x: _Reversed.apply(x, 1e3))
