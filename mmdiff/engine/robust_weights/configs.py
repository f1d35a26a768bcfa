"""Compare published weights with the config that is to start from them."""

from __future__ import annotations

import re
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from mmdiff.registry import MODELS
from mmdiff.utils.configs import mistakes_in_a_sentence

from ..presets import CLASSIFICATION, task_of_config
from .files import Converted, check_names
from .preprocessing import Preprocessing


def build_bare(config: str) -> tuple[nn.Module, bool]:
    """Build the bare model of a config, and say whether it classifies.

    Wrappers for training and shields are left out, so no prior is loaded.

    Args:
        config: The config's file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has no model with a backbone, or a wrong one.
    """
    cfg = Config.fromfile(config)
    model: Any = cfg.get('model') or {}
    own = cfg.get('data_preprocessor')
    while 'backbone' not in model and isinstance(model.get('model'), dict):
        model = model['model']
    if 'backbone' not in model:
        raise ValueError(f'{config} has no model with a backbone.')
    if own is not None:
        model = {'data_preprocessor': own, **model}
    with (
        mistakes_in_a_sentence(),
        DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet')),
    ):
        classifies = task_of_config(Config({**cfg, 'model': model})) == CLASSIFICATION
        return MODELS.build(model), classifies


def check_preprocessing(
    model: nn.Module, wanted: Preprocessing, config: str, classifies: bool
) -> None:
    """Complain about a model that hands its backbone other images than it expects.

    Args:
        model: The model.
        wanted: What its weights expect.
        config: Its file, for messages.
        classifies: Whether it is a classifier.

    Raises:
        ValueError: If so.
    """
    has = Preprocessing.of_module(model.data_preprocessor)
    if not has.fits(wanted):
        settings = ', '.join(f'{k}={v}' for k, v in wanted.config(classifies).items())
        raise ValueError(
            f'{config} normalises by {has}, and the weights expect {wanted}; set '
            f'data_preprocessor=dict({settings}).'
        )


def check_style(model: nn.Module, config: str) -> None:
    """Complain about ResNets with their strides elsewhere, which no name shows.

    Raises:
        ValueError: If so.
    """
    if getattr(model.backbone, 'style', 'pytorch') != 'pytorch':
        raise ValueError(
            f'{config} has style={model.backbone.style!r}, and the weights have their '
            "strides in the 3x3 convolutions; set style='pytorch' in the backbone."
        )


def check_config(converted: Converted, config: str) -> tuple[str, ...]:
    """Complain about a config whose backbone cannot start from the weights.

    Args:
        converted: The weights.
        config: The config's file.

    Returns:
        What of the backbone is not among the weights: the norms that ConvNeXts have
        behind stages that only detectors look at.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If preprocessor, strides, names or shapes differ.
    """
    model, classifies = build_bare(config)
    check_preprocessing(model, converted.preprocessing, config, classifies)
    check_style(model, config)
    needed = {f'backbone.{k}': v for k, v in model.backbone.state_dict().items()}
    anew = [
        name
        for name in needed
        if re.fullmatch(r'backbone\.norm[0-2]\.(weight|bias)', name)
        and name not in converted.state
    ]
    for name in anew:
        del needed[name]
    given = {k: v for k, v in converted.state.items() if k.startswith('backbone.')}
    check_names(given, needed, converted.origin, f'the backbone of {config}')
    return tuple(anew)
