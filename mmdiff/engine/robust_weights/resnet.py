"""Adversarially trained ResNets of ImageNet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .configs import check_config
from .files import (
    Converted,
    check_names,
    check_out,
    read_published,
    write_converted,
)
from .preprocessing import agreed, take_normalisation

# By ``ares/model/imagenet_model_zoo.py`` of thu-ml/ares (``act_gelu``).
GELU = 'ResNet-152', 'Wide-ResNet-50'


def convert_resnet(
    source: str | Path,
    out: str | Path,
    normalization: str | None = None,
    key: str | None = None,
    config: str | None = None,
) -> Converted:
    """Convert a robust ResNet to a checkpoint of mmpretrain's and mmdet's.

    Names and normalisations are those of

    - Salman et al. (2020), ``resnet50_linf_eps4.0.ckpt`` and the like: files of
      MadryLab/robustness (``robustness/attacker.py``, ``robustness/train.py``,
      ``robustness/imagenet_models/resnet.py``), under ``model`` with
      ``module.model.conv1.weight``, ``module.normalizer.new_mean`` and a second copy as
      ``module.attacker.*``;
    - thu-ml/ares (``ares/model/imagenet_cls.py``, ``imagenet_model_zoo.py``),
      ``ARES_ResNet50_AT.pth``: timm's names, which are torchvision's. ImageNet's mean
      and std stand in its code, not in the file.

    All take RGB; images in 0..1 are normalised with ImageNet's mean and std. Blocks
    have their stride in the 3x3 convolution (``style='pytorch'``).

    Args:
        source: The published file. Nothing in it is executed.
        out: ``FILE.pth`` to write. Names are those of mmpretrain's ``ImageClassifier``,
            ``backbone.*`` those of mmdet's ``ResNet`` as well.
        normalization: ``'imagenet'`` or ``'none'``, if the file does not say.
        key: Which of several sets of weights in the file.
        config: Config that is to start from the weights: its preprocessor and backbone
            are compared.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: If there is no such file.
        FileExistsError: If ``out`` exists.
        ValueError: If weights, normalisation or config do not fit.
    """
    out = check_out(out)
    published = read_published(source, key)
    state, in_file = take_normalisation(published.state, source)
    backbone = resnet_config(state, source)
    if in_file is None:
        check_activation(backbone, source)
    preprocessing = agreed(in_file, normalization, source)
    renamed = {mm_name(name): value for name, value in state.items()}
    check_names(renamed, like_classifier(backbone, state), source, _title(backbone))
    converted = Converted(
        renamed, preprocessing, backbone, f'{_title(backbone)} of {Path(source).name}'
    )
    if config is not None:
        converted = replace(converted, anew=check_config(converted, config))
    write_converted(converted, out)
    return converted


def mm_name(name: str) -> str:
    """Name of a weight in mmpretrain's classifier, by torchvision's.

    Example:
        >>> mm_name('layer1.0.bn1.weight'), mm_name('fc.bias')
        ('backbone.layer1.0.bn1.weight', 'head.fc.bias')
    """
    return f'head.{name}' if name.startswith('fc.') else f'backbone.{name}'


def resnet_config(state: Mapping[str, Tensor], source: object) -> dict[str, Any]:
    """Config of the backbone that has these weights, by their names and shapes.

    Raises:
        ValueError: If it is no ResNet.
    """
    from mmpretrain.models import ResNet

    blocks: dict[str, set[str]] = {}
    for name in state:
        layer, _, rest = name.partition('.')
        if layer.startswith('layer'):
            blocks.setdefault(layer, set()).add(rest.partition('.')[0])
    counts = tuple(len(blocks[layer]) for layer in sorted(blocks))
    last = 'layer1.0.conv3.weight' if 'layer1.0.conv3.weight' in state else None
    depth = next(
        (
            depth
            for depth, (_, expected) in ResNet.arch_settings.items()
            if expected == counts and (depth >= 50) == (last is not None)
        ),
        None,
    )
    if depth is None or not {'conv1.weight', 'layer1.0.conv1.weight'} <= state.keys():
        raise ValueError(
            f'{source} has no ResNet: {_some(state)}; give weights of a ResNet-18, 34, '
            '50, 101 or 152 (robust-convnext reads ConvNeXts).'
        )
    width = len(state['layer1.0.conv1.weight'])
    config = {'type': 'ResNet', 'depth': depth}
    stem = len(state['conv1.weight'])
    if (stem, width) != (64, 64):
        config.update(stem_channels=stem, base_channels=width)
    if last is not None and len(state[last]) != 4 * width:
        config['expansion'] = len(state[last]) // width
    return config


def _some(state: Mapping[str, Tensor]) -> str:
    """The first names."""
    names = list(state)
    return f'its first weights are {", ".join(names[:3])}'


def like_classifier(
    backbone: dict[str, Any], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors of such a classifier; without a head if there is none."""
    from mmpretrain.models import ResNet

    args = {key: value for key, value in backbone.items() if key != 'type'}
    network = ResNet(**args)
    needed = {f'backbone.{k}': v for k, v in network.state_dict().items()}
    if any(name.startswith('fc.') for name in state):
        classes = len(state.get('fc.weight', ()))
        needed['head.fc.weight'] = torch.empty(classes, network.feat_dim)
        needed['head.fc.bias'] = torch.empty(classes)
    return needed


def _title(backbone: dict[str, Any]) -> str:
    wide = 'Wide-' if backbone.get('expansion') else ''
    return f'{wide}ResNet-{backbone["depth"]}'


def check_activation(backbone: dict[str, Any], source: object) -> None:
    """Complain about networks that may have another activation than mm's.

    Raises:
        ValueError: If so.
    """
    if _title(backbone) in GELU:
        raise ValueError(
            f'{source} is a {_title(backbone)} without the wrapper of MadryLab: those '
            "of ARES have GELU, which names do not show and mm's ResNet does not have; "
            'take a ResNet-50 or 101, or a file of the robustness library.'
        )
