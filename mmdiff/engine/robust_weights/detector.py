"""Adversarially trained detectors of mmdet 2."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .configs import build_bare, check_preprocessing, check_style
from .files import (
    Converted,
    check_names,
    check_out,
    read_published,
    write_converted,
)
from .preprocessing import IMAGENET, Preprocessing

NUMBERS = r'\[([^\]]+)\]'
NORMALIZE = re.compile(
    rf"type='Normalize',\s*mean={NUMBERS},\s*std={NUMBERS},\s*to_rgb=(True|False)"
)
# What mmdet 2's DN-DETR of oddefense has, and no detector of mmdet 3.
DN_DETR = 'bbox_head.label_enc.weight'


def convert_detector(source: str | Path, config: str, out: str | Path) -> Converted:
    """Convert a detector of oddefense, trained with mmdet 2.28, to mmdet 3.

    The names of Faster R-CNN and FCOS (thu-ml/oddefense, ``frcnn/``, ``fcos/``,
    ``mmdet/models/dense_heads/fcos_head.py``; Li et al. 2023) are those of mmdet 3.
    What differs is not in them: images were normalised by the pipeline, and now are by
    ``data_preprocessor``; classes were ``meta['CLASSES']``, and now are
    ``meta['dataset_meta']``; and the config that goes by the same name in mmdet 3 may
    have another preprocessor and other strides (FCOS: ``r50-caffe``). Their DN-DETR has
    no counterpart.

    Args:
        source: The published file. Nothing in it is executed.
        config: Config of mmdet 3 with the same detector; those of oddefense are
            ``mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py`` and
            ``configs/robustness/*_oddefense_coco.py``.
        out: ``FILE.pth`` to write.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: If a file is missing.
        FileExistsError: If ``out`` exists.
        ValueError: If weights and config do not fit.
    """
    out = check_out(out)
    published = read_published(source)
    if DN_DETR in published.state:
        raise ValueError(
            f'{source} is a DN-DETR, which mmdet 3 does not have; Faster R-CNN and '
            'FCOS can be converted.'
        )
    model, classifies = build_bare(config)
    if classifies:
        raise ValueError(f'{config} is of a classifier; give one of a detector.')
    preprocessing = trained_preprocessing(published.meta)
    check_preprocessing(model, preprocessing, config, classifies=False)
    check_style(model, config)
    check_names(published.state, model.state_dict(), source, f'the model of {config}')
    classes = _classes(published.meta)
    meta = {'dataset_meta': {'classes': classes}} if classes else {}
    origin = f'{type(model).__name__} of {Path(source).name}'
    converted = Converted(published.state, preprocessing, {}, origin, meta)
    write_converted(converted, out)
    return converted


def trained_preprocessing(meta: dict[str, Any]) -> Preprocessing:
    """Normalisation of the pipeline in the config that mmcv saved with the weights.

    Without one it is that of all configs of oddefense: ImageNet's mean and std, RGB.

    Raises:
        ValueError: If it is written in a way that cannot be read.

    Example:
        >>> text = "dict(type='Normalize', mean=[0, 0, 0], std=[1, 1, 1], to_rgb=False)"
        >>> str(trained_preprocessing({'config': text}))
        'mean=[0.0, 0.0, 0.0], std=[1.0, 1.0, 1.0], BGR'
    """
    text = meta.get('config')
    written = NORMALIZE.search(text) if isinstance(text, str) else None
    if written is None and isinstance(text, str) and 'Normalize' in text:
        raise ValueError(
            'The config in the file normalises images in a way that cannot be read; '
            "write it as dict(type='Normalize', mean=[...], std=[...], to_rgb=True)."
        )
    if written is None:
        return Preprocessing.of_unit_range(*IMAGENET)
    mean, std = (tuple(float(v) for v in written[i].split(',')) for i in (1, 2))
    return Preprocessing(mean, std, written[3] == 'True')


def _classes(meta: dict[str, Any]) -> tuple[str, ...]:
    """Names of the classes, if they are there."""
    names = meta.get('CLASSES')
    known = isinstance(names, Sequence) and all(isinstance(n, str) for n in names)
    return tuple(names) if names and known else ()
