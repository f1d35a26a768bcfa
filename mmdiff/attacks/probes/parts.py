"""Listen to the parts of a model while it is asked for an objective."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.utils.modules import replaced

from .heads import listening_to_heads
from .tensors import flat

# How names of feature maps begin.
FEATURES = 'feature map'


class Parts:
    """One random sum of each feature map and of each output of every head.

    An objective may hardly look at a feature map on a few images, and gradients of
    targets that follow predictions are left out of many losses on purpose. The sums
    tell whether the gradient of the model itself is whole.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        # Decoders that refine boxes stop the gradient of where they look, by design
        # (Deformable DETR, Zhu et al. 2021; DINO, DDQ): boxes tell nothing there.
        flags = ('with_box_refine', 'as_two_stage')
        self.refines = any(getattr(model, flag, False) is True for flag in flags)
        self._sums: dict[str, Tensor] = {}
        self._shapes: dict[str, list] = {}
        self._signs: dict[tuple, Tensor] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take sums of what the model computes meanwhile."""
        with ExitStack() as stack:
            if hasattr(self.model, 'extract_feat'):
                noting = self._note_features(self.model.extract_feat)
                stack.enter_context(replaced(self.model, 'extract_feat', noting))
            stack.enter_context(listening_to_heads(self.model, self._note_head))
            yield

    def take(self) -> tuple[dict[str, Tensor], dict[str, list]]:
        """Sums since the last call, and the shapes of what they are of."""
        taken = self._sums, self._shapes
        self._sums, self._shapes = {}, {}
        return taken

    def _note_features(self, extract_feat: Any) -> Any:
        def noting(*args: Any, **kwargs: Any) -> Any:
            features = extract_feat(*args, **kwargs)
            for k, feature in enumerate(flat(features)):
                self._add(f'{FEATURES} {k}', feature)
            return features

        return noting

    def _note_head(self, name: str) -> Any:
        def noting(module: nn.Module, inputs: Any, outputs: Any) -> None:
            # Scores, boxes, ...: each of them of all levels.
            kinds = outputs if isinstance(outputs, list | tuple) else [outputs]
            for k, kind in enumerate(kinds[:1] if self.refines else kinds):
                for output in flat(kind):
                    self._add(f'{name} output {k}', output)

        return noting

    def _add(self, name: str, tensor: Tensor) -> None:
        if not tensor.is_floating_point():
            return
        shapes = self._shapes.setdefault(name, [])
        key = name, len(shapes), tuple(tensor.shape)
        shapes.append(key[2])
        if key not in self._signs:
            generator = torch.Generator().manual_seed(len(shapes))
            signs = torch.randn(tensor.shape, generator=generator).double()
            self._signs[key] = signs.to(tensor.device)
        total = (tensor.double() * self._signs[key]).sum()
        self._sums[name] = self._sums.get(name, 0) + total
