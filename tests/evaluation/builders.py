"""Rows, records and files as the tests want them."""

import numpy as np
import torch

from mmdiff.attacks import AttackStats, Budget
from mmdiff.evaluation.entry import Cost, Entry, Sanity
from mmdiff.evaluation.record import RunRecord
from mmdiff.evaluation.results import ModelCost, Results

HEALTHY = {
    'images': 10,
    'changed': 10,
    'changed_share': 1.0,
    'max_delta': 8.0,
    'max_l2': 100.0,
    'pixel_min': 0.0,
    'pixel_max': 255.0,
    'objective_ends': (1.0, 2.0),
}


def make_entry(attack='pgd', value=0.2, eps=8, images=10, sanity=(), **fields):
    """A healthy row of an attack; ``sanity`` changes what it did."""
    role = {
        'clean': 'clean',
        'worst_case': 'worst_case',
        'random_noise': 'control',
    }.get(attack, 'attack')
    settings = {'steps': 10, 'restarts': 1, 'eot': 1} if role == 'attack' else {}
    entry = Entry(
        attack,
        attack,
        role,
        None if role == 'clean' else Budget(eps),
        settings,
        num_images=images,
        metrics={'pascal_voc/AP50': 0.1, 'pascal_voc/mAP': value},
        image_score=value,
        cost=Cost(seconds=12.5, grad_evals=100),
    )
    if role in ('attack', 'control'):
        entry.sanity = Sanity(**{**HEALTHY, **dict(sanity)})
    for name, changed in fields.items():
        setattr(entry, name, changed)
    return entry


def make_record(scores, losses=None, predictions=None):
    """A record of images of these scores."""
    if predictions is None:
        predictions = [{'scores': torch.tensor([0.9, 0.5])} for _ in scores]
    losses = [2.0] * len(scores) if losses is None else losses
    return RunRecord(predictions, np.array(losses), np.array(scores), AttackStats())


def make_results(**changes):
    """Results of a model with all roles."""
    entries = [
        make_entry('clean', 0.8, per_class={'cat': 0.9, 'dog': 0.7}),
        make_entry('pgd', 0.6123, 2),
        make_entry('pgd', 0.4, 8, per_class={'cat': 0.6, 'dog': 0.2}),
        make_entry('square', 0.5, 8, cost=Cost(seconds=9, queries=600)),
        make_entry('worst_case', 0.35, 8, per_class={'cat': 0.54, 'dog': 0.16}),
        make_entry('random_noise', 0.79, 8),
        make_entry('dag', 0.1, None),
    ]
    for entry in entries:
        entry.num_images = 120
    results = Results(
        'prior',
        entries,
        config='configs/a.py',
        checkpoint='a.pth',
        dataset={'type': 'VOCDataset', 'ann_file': 'val.txt', 'data_root': 'd/'},
        versions={'torch': '2.8.0'},
        cost=ModelCost(1_120_000, 109.4),
        complete=True,
    )
    for name, changed in changes.items():
        setattr(results, name, changed)
    return results
