"""Backbone and neck as a graph that runs without this package."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mmdiff.utils.files import whole_file

SUFFIXES = ('.onnx', '.pt2')
# Of the largest value of a feature.
TOLERANCE = 1e-5


class FeatureGraph(nn.Module):
    """Backbone, and neck if there is one, of an mm model.

    Args:
        model: A detector, or a classifier.

    Raises:
        ValueError: If the model has no backbone, or one whose features are drawn anew
            in each pass, of which a graph would keep one draw.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not hasattr(model, 'backbone'):
            raise ValueError(f'{type(model).__name__} has no backbone to export.')
        if getattr(model.backbone, 'draws_noise', False):
            raise ValueError(
                f'noise={model.backbone.noise!r} of the backbone is drawn anew in '
                'every pass, and a graph is a function of its input; export with '
                "noise='fixed' or 'none'."
            )
        self.backbone = model.backbone
        self.neck = getattr(model, 'neck', None)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Give the features of images as the model's preprocessor leaves them.

        Args:
            image: (N, 3, H, W).
        """
        features = self.backbone(image)
        if self.neck is not None:
            features = self.neck(features)
        return tuple(features) if isinstance(features, (tuple, list)) else (features,)


def export_features(graph: FeatureGraph, file: Path, image: Tensor) -> float | None:
    """Write a graph and run it on other images of the same shape.

    Args:
        graph: Backbone and neck.
        file: ``.onnx`` (runs with onnxruntime) or ``.pt2`` (``torch.export.load``).
        image: An input, (N, 3, H, W); the graph takes this shape.

    Returns:
        The largest difference from the model, as a part of the largest value of its
        feature; ``None`` if onnxruntime is not there to run it.

    Raises:
        ValueError: For another kind of file, or a missing package.
        RuntimeError: If what was written gives other features than the model; nothing
            is left of it then.

    Example:
        >>> from types import SimpleNamespace
        >>> graph = FeatureGraph(SimpleNamespace(backbone=nn.Conv2d(3, 4, 1)))
        >>> graph(torch.zeros(1, 3, 2, 2))[0].shape
        torch.Size([1, 4, 2, 2])
    """
    check_target(file)
    write = _write_onnx if file.suffix == '.onnx' else _write_program
    with whole_file(file) as partial, torch.no_grad():
        run = write(graph, partial, image)
        if run is None:
            return None
        other = torch.rand_like(image) * 2 - 1
        expected, given = graph(other), run(other)
        difference = max(
            ((a - b).abs().max() / a.abs().max()).item()
            for a, b in zip(expected, given, strict=True)
        )
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f'The exported graph differs from the model by {difference:.1e} of its '
                f'largest value, more than {TOLERANCE:g}; nothing was written.'
            )
    return difference


def check_target(file: Path) -> None:
    """Complain about a kind of file, or a package that is not there.

    Raises:
        ValueError: With what to do.
    """
    if file.suffix not in SUFFIXES:
        raise ValueError(f'{file} must end in {" or ".join(SUFFIXES)}.')
    if file.suffix == '.pt2' and not hasattr(torch, 'get_autocast_dtype'):
        raise ValueError(
            f'A program of torch.export needs torch 2.4, and this is '
            f'{torch.__version__}; write .onnx instead.'
        )
    if file.suffix == '.onnx' and importlib.util.find_spec('onnx') is None:
        raise ValueError(
            "ONNX needs packages that are not installed; pip install 'mmdiff[onnx]'."
        )


def _write_program(graph: nn.Module, file: Path, image: Tensor) -> Callable:
    """Write what ``torch.export`` made; return what runs the file."""
    torch.export.save(torch.export.export(graph, (image,)), str(file))
    return torch.export.load(str(file)).module()


def _write_onnx(graph: nn.Module, file: Path, image: Tensor) -> Callable | None:
    """Write ONNX in one file; return what runs it, if anything here can."""
    # The older exporter makes no ONNX of EDM's networks; the newer needs onnxscript.
    newer = importlib.util.find_spec('onnxscript') is not None
    options = {'dynamo': True, 'external_data': False} if newer else {}
    torch.onnx.export(
        graph, (image,), str(file), input_names=['image'], verbose=False, **options
    )
    if importlib.util.find_spec('onnxruntime') is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(file), providers=['CPUExecutionProvider']
    )
    return lambda x: [
        torch.from_numpy(value) for value in session.run(None, {'image': x.numpy()})
    ]
