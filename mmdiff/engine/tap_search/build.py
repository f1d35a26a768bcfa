"""Backbone and preprocessor of a config, without the rest of its model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from torch import nn

from mmdiff.models import DiffusionUNet
from mmdiff.registry import MODELS
from mmdiff.utils.modules import seed_all

from ..presets import CLASSIFICATION, task_of_config


def build_backbone(
    cfg: Config, num_noise: Sequence[int] | None, seed: int
) -> DiffusionUNet:
    """Build the backbone with all its blocks, on the device that is there.

    Args:
        cfg: Config of a detector or classifier.
        num_noise: Numbers of noises to come; ``None``: that of the config.
        seed: Of random weights, if the prior has such.

    Raises:
        ValueError: If it is no frozen :class:`~mmdiff.models.DiffusionUNet`.
    """
    config = (cfg.get('model') or {}).get('backbone') or {}
    kind = config.get('type')
    if isinstance(kind, str):
        kind = MODELS.get(kind)
    if not isinstance(kind, type) or not issubclass(kind, DiffusionUNet):
        raise ValueError(
            f'model.backbone of the config is {config.get("type", "missing")}, and the '
            "search is among taps of a prior: give type='mmdiff.DiffusionUNet'."
        )
    if config.get('frozen', True) is False:
        raise ValueError(
            'model.backbone trains along (frozen=False), so its features are not yet '
            'known; search with frozen=True.'
        )
    settings = {**config.to_dict(), 'out_indices': (-1,)}
    if num_noise:
        settings['num_noise'] = max(num_noise)
    seed_all(seed)
    backbone = MODELS.build(settings)
    if backbone.init_cfg is not None:
        backbone.init_weights()
    return backbone.to(get_device()).eval()


def preprocessor_config(cfg: Config) -> dict[str, Any]:
    """Config of the preprocessor, as the model would build it."""
    own = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    classifies = task_of_config(cfg) == CLASSIFICATION
    default = 'ClsDataPreprocessor' if classifies else 'DetDataPreprocessor'
    return {'type': default, **dict(own)}


def build_preprocessor(cfg: Config) -> nn.Module:
    """Build the preprocessor of a config."""
    return MODELS.build(preprocessor_config(cfg))
