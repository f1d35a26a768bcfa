"""What a folder of attacked images says of itself, for people."""

from __future__ import annotations

import pprint
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .set_folder import CLASS_FILE, SPLIT

ROUNDING = {
    'png': (
        'PNG, 8 bits: values are rounded to the nearest whole one, and towards the '
        'clean pixel where that would leave the budget'
    ),
    'npy': 'npy: float32 (H, W, C), the values that the model got',
}
META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')


def readme(about: Mapping[str, Any], reading: str) -> str:
    """Markdown from what ``budget.json`` says.

    Args:
        about: Content of ``budget.json``.
        reading: How mm packages read the set (:func:`how_to_read`).
    """
    disk = about['on_disk']
    lines = [f'# {about["name"]} ({about["model"]})', '']
    if about['role'] == 'clean':
        lines.append(f'{about["num_images"]} clean images, as the model gets them.')
    else:
        asked = 'no budget' if about['eps'] is None else f'eps {about["eps"]:g}'
        if about['mask']:
            asked += f', mask {about["mask"]}'
        unit = 'pixels of displacement' if about['norm'] == 'flow' else 'of 255'
        lines += [
            f'{about["num_images"]} images, attacked on {about["model"]} '
            f'(config `{about["config"]}`, checkpoint `{about["checkpoint"]}`).',
            '',
            f'- asked: {about["norm"]}, {asked} ({unit})',
            f'- on disk, against the files in `{about["clean"]}`: largest change of a '
            f'value {disk["linf_max"]:.4g} (mean of the images '
            f'{disk["linf_mean"]:.4g}), L2 norm at most {disk["l2_max"]:.5g} (mean '
            f'{disk["l2_mean"]:.5g})',
            f'- images that are the clean ones: {disk["unchanged"]}',
        ]
    value = about['metric_of_files']
    known = 'not measured' if value is None else f'{value:.4f}'
    lines += [
        f'- `{about["metric"]}` of the model on these files: {known}'
        f' (on the values of the attack: {about["metric_of_values"]:.4f})',
        f'- files: {ROUNDING[about["files"]]}; without padding, at the size of the '
        "model's input; annotations are at that size",
    ]
    lines += [f'- **{note}**' for note in about['notes']]
    return '\n'.join([*lines, '', reading, ''])


def how_to_read(
    folder: Path, about: Mapping[str, Any], classes: Sequence[str], pads: Sequence[dict]
) -> str:
    """How mm packages read the set, with what a config needs.

    Args:
        folder: The folder.
        about: Content of its ``budget.json``.
        classes: Names of the classes.
        pads: Transforms of the test pipeline that pad.
    """
    loads = {'type': 'LoadImageFromFile'}
    if about['files'] == 'npy':
        loads = {'type': 'mmdiff.LoadImageFromNpy'}
    elif about['channels'] == 1:
        loads['color_type'] = 'grayscale'
    common = {'data_root': f'{folder}/', 'metainfo': {'classes': tuple(classes)}}
    if about['task'] == 'classification':
        dataset = {
            'type': 'CustomDataset',
            'ann_file': CLASS_FILE,
            'data_prefix': 'images',
            **common,
            'pipeline': [loads, {'type': 'PackInputs'}],
        }
        return _block([dataset])
    pipeline = [
        loads,
        {'type': 'Resize', 'scale_factor': 1.0},  # says that nothing is resized
        *pads,
        {'type': 'LoadAnnotations', 'with_bbox': True},
        {'type': 'PackDetInputs', 'meta_keys': META_KEYS},
    ]
    rest = {**common, 'test_mode': True, 'pipeline': pipeline}
    coco = {
        'type': 'CocoDataset',
        'ann_file': 'annotations.json',
        'data_prefix': {'img': 'images/'},
        **rest,
    }
    voc = {
        'type': 'VOCDataset',
        'ann_file': SPLIT,
        'data_prefix': {'sub_data_root': ''},
        **rest,
    }
    return _block([coco, voc] if about['voc'] else [coco])


def _block(datasets: Sequence[dict]) -> str:
    parts = [
        'To read it (load all in this order, in batches of the same size; keep what '
        'your pipeline does beside loading and resizing):'
    ]
    if len(datasets) > 1:
        parts.append(
            'Boxes are exact in `annotations.json`. In `Annotations` they are rounded '
            'to whole pixels, because readers of VOC cut fractions off; '
            '`JPEGImages/*.jpg` are PNG files under the name that these readers want.'
        )
    for dataset in datasets:
        text = pprint.pformat(dataset, width=84, sort_dicts=False)
        parts.append(f'```python\ndataset = {text}\n```')
    return '\n\n'.join(parts)
