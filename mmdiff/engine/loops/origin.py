"""Where the numbers of a report come from."""

from __future__ import annotations

import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from mmdiff.evaluation.results import ModelCost, Results
from mmdiff.evaluation.shield import Shield
from mmdiff.models import PurifiedModel
from mmdiff.utils.files import strict_json
from mmdiff.utils.modules import device_of, unwrap
from mmdiff.version import __version__

PACKAGES = (
    'mmdet',
    'mmpretrain',
    'mmcv',
    'mmengine',
    'torch',
    'diffusers',
    'torchattacks',
)


def describe_run(
    runner: Runner,
    task: str,
    name: str,
    protocol: str,
    train_seconds: float | None = None,
    indices: int | None = None,
) -> Results:
    """What a report says whatever is found: results without rows.

    Args:
        runner: The runner.
        task: Task of the model.
        name: Name of the model.
        protocol: ``'adaptive'`` or ``'paper'``.
        train_seconds: Time that training took, if known.
        indices: Number of the first images that the loop takes, if not all.
    """
    cfg, model = runner.cfg, unwrap(runner.model)
    dataset = cfg.test_dataloader.dataset
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Results(
        name,
        [],
        protocol=protocol,
        task=task,
        config=str(cfg.filename),
        checkpoint=str(runner._load_from or ''),
        dataset=strict_json(
            {
                'type': dataset.type,  # a class, in a config in pure Python
                'ann_file': dataset.get('ann_file', ''),
                'data_root': dataset.get('data_root', ''),
                'indices': dataset.get('indices') if indices is None else indices,
            }
        ),
        versions=versions(),
        device=device_of(model).type,
        cost=ModelCost(trained, train_seconds),
        shield=shield_of(model),
    )


def shield_of(model: nn.Module) -> Shield | None:
    """What stands in front of a model; ``None`` if nothing does."""
    return Shield(**model.describe()) if isinstance(model, PurifiedModel) else None


def name_of(cfg: Config) -> str:
    """Name of a model: of its config's file, else of its class."""
    if cfg.filename:
        return Path(cfg.filename).stem
    kind = cfg.model.type
    return kind if isinstance(kind, str) else kind.__name__


def versions() -> dict[str, str]:
    """Versions of the packages in use that numbers may depend on."""
    in_use = {'mmdiff': __version__}
    for name in PACKAGES:
        if name in sys.modules:
            in_use[name] = sys.modules[name].__version__
    return in_use
