"""Outputs of layers: of any module of a model, or of a tap of a prior."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.models import DiffusionUNet

from ..tap_search.grid import set_point

POOLING = {
    4: 'mean over positions of a map (N, C, H, W)',
    3: 'mean over tokens (N, L, C)',
    2: 'none: a vector (N, C)',
}
# What a pass stops at where a layer asks for more than an image gives.
UNKNOWING = (AttributeError, KeyError, TypeError)


def parse_layer(model: nn.Module, text: str) -> tuple[str, int | None]:
    """Read ``'backbone:3'``: name of a module, and number of its output.

    Args:
        model: The model that has the module.
        text: ``NAME`` or ``NAME:INDEX``; an index may count from the end.

    Raises:
        ValueError: If there is no such module (it names those of similar names), or the
            index is no whole number.
    """
    name, _, index = text.partition(':')
    names = [known for known, _ in model.named_modules() if known]
    if name not in names:
        near = get_close_matches(name, names, n=4, cutoff=0.5)
        first = [known for known, _ in model.named_children()]
        raise ValueError(
            f'There is no layer {name!r} in {type(model).__name__}; '
            f'{"near it" if near else "its parts"}: {", ".join(near or first)}.'
        )
    if index and not index.removeprefix('-').isdigit():
        raise ValueError(f'--layer {text} must end in a whole number after the colon.')
    return name, int(index) if index else None


class LayerOutput(nn.Module):
    """What one module of a model gives for preprocessed images, as a map.

    Modules that run in ``extract_feat`` (backbone and neck) are asked by that, others
    by a pass of the whole model without data samples.

    Args:
        model: The model, in eval mode.
        layer: ``NAME`` or ``NAME:INDEX``.

    Raises:
        ValueError: See :func:`parse_layer`.
    """

    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__()
        self.model, self.layer = model, layer
        self.target, self.index = parse_layer(model, layer)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Output of the layer as a map, (N, C, H, W); see :func:`as_map`."""
        outputs = self._outputs(x)
        count, index = len(outputs), self.index
        if index is None and count > 1:
            raise ValueError(
                f'Layer {self.target} gives {count} outputs in a pass; name one of '
                f'them: {self.target}:0 to {self.target}:{count - 1}.'
            )
        index = 0 if index is None else index
        if not -count <= index < count:
            raise ValueError(
                f'Layer {self.layer} is out of range: {self.target} gives {count} '
                f'outputs, {self.target}:0 to {self.target}:{count - 1}.'
            )
        self.layer = self.target if count == 1 else f'{self.target}:{index % count}'
        output = outputs[index]
        self.ndim = getattr(output, 'ndim', 0)
        return (as_map(output, len(x), self.layer),)

    def _outputs(self, x: Tensor) -> list[Any]:
        """All that the layer gives in a pass, over all of its calls."""
        outputs: list[Any] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            several = isinstance(output, (list, tuple))
            outputs.extend(output if several else [output])

        module = self.model.get_submodule(self.target)
        handle = module.register_forward_hook(keep)
        try:
            if hasattr(self.model, 'extract_feat'):
                self.model.extract_feat(x)
            if not outputs:
                self._run_whole(x)
        finally:
            handle.remove()
        if not outputs:
            raise ValueError(
                f'Layer {self.target} is not run as a whole in a pass (a list of '
                'modules, say); name a module inside of it.'
            )
        return outputs

    def _run_whole(self, x: Tensor) -> None:
        try:
            self.model(x, None, mode='tensor')
        except UNKNOWING as error:
            raise ValueError(
                f'Layer {self.target} is not run by extract_feat, and the rest of '
                f'{type(self.model).__name__} does not run without data samples; name '
                'a layer of its backbone or neck.'
            ) from error


def as_map(output: Any, count: int, layer: str) -> Tensor:
    """Turn what a layer gives into a map, (N, C, H, W).

    Tokens, (N, L, C), become a map of one column, a vector, (N, C), one of one pixel.

    Args:
        output: What it gives.
        count: Number of images, N.
        layer: Its name, for messages.

    Raises:
        ValueError: If it is no map, tokens or vector of floating point, one per image.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = output.dtype if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f'Layer {layer} gives {kind}, not a tensor of features; name another one, '
            'or an output of it (NAME:INDEX).'
        )
    shape = tuple(output.shape)
    if output.ndim not in POOLING or shape[0] != count:
        raise ValueError(
            f'Layer {layer} gives shape {shape} for {count} images, and features are '
            '(N, C, H, W), (N, L, C) or (N, C) with N images; name another layer.'
        )
    if output.ndim == 3:
        return output.transpose(1, 2)[..., None]
    return output if output.ndim == 4 else output[:, :, None, None]


class PriorTap(nn.Module):
    """Features of a prior at one tap and time.

    Args:
        backbone: Built with all its blocks; several taps and times may share it.
        tap: Name of the tap.
        time: Timestep or sigma.
    """

    ndim = 4

    def __init__(self, backbone: DiffusionUNet, tap: str, time: int | float) -> None:
        super().__init__()
        self.backbone, self.tap, self.time = backbone, tap, time
        self.layer = f'{tap} at {backbone.model.time_unit} {time:g}'

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature map, (N, C, H, W), of images in [-1, 1]."""
        set_point(self.backbone, [self.tap], self.time, 1)
        return self.backbone(x)


@torch.no_grad()
def look_at(modules: Sequence[nn.Module], x: Tensor) -> list[int]:
    """Run layers once, so that a wrong one is refused before any work; widths.

    Args:
        modules: Layers.
        x: Preprocessed images.

    Raises:
        ValueError: If one gives no features, values that are not finite, or is the
            same as another.
    """
    widths = []
    for module in modules:
        (value,) = module(x)
        if not torch.isfinite(value).all():
            raise ValueError(
                f'Layer {module.layer} gives values that are not finite; name another.'
            )
        widths.append(value.shape[1])
    names = [module.layer for module in modules]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f'Layer {name} is named twice; name each once.')
    return widths
