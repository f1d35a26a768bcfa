"""Images of a config's training set, each once, as its test pipeline reads them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np


def images_of(dataset: Any) -> list[str]:
    """What tells the images of a dataset from all others: files, or pixels.

    Raises:
        ValueError: If the dataset does not say.
    """
    names = []
    for i in range(len(dataset)):
        info = dataset.get_data_info(i) if hasattr(dataset, 'get_data_info') else {}
        if 'img_path' in info:
            names.append(str(Path(info['img_path']).resolve()))
        elif 'img' in info:
            pixels = np.ascontiguousarray(info['img'])
            names.append(hashlib.sha256(pixels.tobytes()).hexdigest())
        else:
            raise ValueError(
                f'{type(dataset).__name__} does not say which images it has, so those '
                'of the test set cannot be left out; give a dataset of mmengine.'
            )
    return names


def leaf_of(dataset: dict) -> dict:
    """The dataset inside of wrappers, of several the first."""
    while 'datasets' in dataset or 'dataset' in dataset:
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    return dataset


def without_mixing(dataset: dict, pipeline: list) -> dict:
    """Config of a dataset's images without what repeats or mixes them."""
    if 'datasets' in dataset:
        parts = [without_mixing(part, pipeline) for part in dataset['datasets']]
        return {**dataset, 'datasets': parts}
    if 'dataset' in dataset:
        return without_mixing(dataset['dataset'], pipeline)
    return {**dataset, 'pipeline': pipeline}
