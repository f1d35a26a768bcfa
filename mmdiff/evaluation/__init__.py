"""Robustness results: measuring, checking, writing, drawing."""

from .corruptions import evaluate_corruptions
from .figures import draw_curve, draw_grid
from .image_ap import class_aps, image_ap, image_margin
from .metrics import DenoisingLoss
from .robustness import (
    attack_configs,
    main_metric,
    make_table,
    parse_attacks,
    protocol_of,
    restrict,
    write_robustness,
)

__all__ = [
    'DenoisingLoss',
    'attack_configs',
    'class_aps',
    'draw_curve',
    'draw_grid',
    'evaluate_corruptions',
    'image_ap',
    'image_margin',
    'main_metric',
    'make_table',
    'parse_attacks',
    'protocol_of',
    'restrict',
    'write_robustness',
]
