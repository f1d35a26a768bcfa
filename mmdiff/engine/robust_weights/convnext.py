"""Adversarially trained ConvNeXts of ImageNet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdiff.registry import MODELS

from .configs import check_config
from .files import (
    Converted,
    check_names,
    check_out,
    read_published,
    write_converted,
)
from .preprocessing import KNOWN, Preprocessing, agreed, take_normalisation

# timm's names, and mmpretrain's.
LAYERS = {
    'conv_dw': 'depthwise_conv',
    'norm': 'norm',
    'mlp.fc1': 'pointwise_conv1',
    'mlp.fc2': 'pointwise_conv2',
}
PARTS = (
    (r'stem\.(?:stem\.)?(\d+)\.(\w+)', r'backbone.downsample_layers.0.\1.\2'),
    (r'stages\.(\d)\.downsample\.(.+)', r'backbone.downsample_layers.\1.\2'),
    (r'stages\.(\d)\.blocks\.(\d+)\.gamma', r'backbone.stages.\1.\2.gamma'),
    (r'head\.norm\.(\w+)', r'backbone.norm3.\1'),
    (r'head\.fc\.(\w+)', r'head.fc.\1'),
)


def convert_convnext(
    source: str | Path,
    out: str | Path,
    normalization: str | None = None,
    key: str | None = None,
    config: str | None = None,
) -> Converted:
    """Convert a robust ConvNeXt to a checkpoint of mmpretrain's.

    Names and normalisations are those of

    - Singh et al. (2023), ``convnext_tiny_cvst_robust.pt`` and the like:
      nmndeep/revisiting-at (``utils_architecture.py``, ``main.py``) with timm 0.8, and
      RobustBench/robustbench (``model_zoo/architectures/convstem_models.py``). A
      ``WrappedModel`` puts ``base_model.`` before the names. The convolutional stem is
      ``stem.stem.*``. They were trained without normalisation
      (``run_train.sh``: ``--model.add_normalization 0``), so without one in the file,
      a network with this stem takes RGB in 0..1;
    - thu-ml/ares (``imagenet_model_zoo.py``), ``ARES_ConvNext_Small_AT.pth``: timm's
      names, with patches; ImageNet's mean and std stand in its code alone.

    Args:
        source: The published file. Nothing in it is executed.
        out: ``FILE.pth`` to write, with the names of mmpretrain's ``ImageClassifier``.
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
    backbone = convnext_config(state, source)
    if in_file is None and 'stem_channels' in backbone and normalization is None:
        in_file = Preprocessing.of_unit_range(*KNOWN['none'])
    preprocessing = agreed(in_file, normalization, source)
    renamed = {mm_name(name): value for name, value in state.items()}
    check_names(renamed, like_classifier(backbone, state), source, 'this ConvNeXt')
    origin = f'ConvNeXt of {Path(source).name}'
    converted = Converted(renamed, preprocessing, backbone, origin)
    if config is not None:
        converted = replace(converted, anew=check_config(converted, config))
    write_converted(converted, out)
    return converted


def mm_name(name: str) -> str:
    """Name of a weight in mmpretrain's classifier, by timm's; unknown ones stay.

    Example:
        >>> mm_name('stages.2.blocks.8.mlp.fc1.weight')
        'backbone.stages.2.8.pointwise_conv1.weight'
        >>> mm_name('stem.stem.3.bias')
        'backbone.downsample_layers.0.3.bias'
    """
    block = re.fullmatch(r'stages\.(\d)\.blocks\.(\d+)\.(.+)\.(weight|bias)', name)
    if block and block[3] in LAYERS:
        return f'backbone.stages.{block[1]}.{block[2]}.{LAYERS[block[3]]}.{block[4]}'
    for pattern, replacement in PARTS:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def convnext_config(state: Mapping[str, Tensor], source: object) -> dict[str, Any]:
    """Config of the backbone that has these weights, by their names and shapes.

    Raises:
        ValueError: If it is no ConvNeXt of four stages.
    """
    from mmpretrain.models import ConvNeXt

    blocks: dict[int, set[str]] = {}
    for name in state:
        block = re.fullmatch(r'stages\.(\d)\.blocks\.(\d+)\..+', name)
        if block:
            blocks.setdefault(int(block[1]), set()).add(block[2])
    firsts = [state.get(f'stages.{i}.blocks.0.conv_dw.weight') for i in range(4)]
    channels = [len(first) for first in firsts if first is not None]
    if sorted(blocks) != [0, 1, 2, 3] or len(channels) < 4:
        names = ', '.join([*state][:3])
        raise ValueError(
            f'{source} has no ConvNeXt by the names of timm: its first weights are '
            f'{names}; give weights of one with four stages (robust-resnet reads '
            'ResNets).'
        )
    arch: Any = {
        'depths': [len(blocks[i]) for i in range(4)],
        'channels': channels,
    }
    known = [name for name, each in ConvNeXt.arch_settings.items() if each == arch]
    config = {'type': 'mmpretrain.ConvNeXt', 'arch': known[0] if known else arch}
    stem = sorted(
        name for name in state if re.fullmatch(r'stem\.stem\.\d+\.bias', name)
    )
    if stem:
        config['type'] = 'mmdiff.ConvStemConvNeXt'
        # Convolutions are every third layer, behind them normalisation and GELU.
        numbers = range(0, max(int(name.split('.')[2]) for name in stem), 3)
        config['stem_channels'] = [
            len(state.get(f'stem.stem.{n}.bias', ())) for n in numbers
        ]
    return config


def like_classifier(
    backbone: dict[str, Any], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Tensors of such a classifier; without a head if there is none."""
    network = MODELS.build({'_scope_': 'mmpretrain', **backbone})
    needed = {f'backbone.{k}': v for k, v in network.state_dict().items()}
    if any(name.startswith('head.fc.') for name in state):
        classes = len(state.get('head.fc.weight', ()))
        needed['head.fc.weight'] = torch.empty(classes, network.channels[-1])
        needed['head.fc.bias'] = torch.empty(classes)
    return needed
