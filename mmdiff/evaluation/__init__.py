"""Robustness results: measuring, checking, writing, drawing."""

from .denoising_loss import DenoisingLoss
from .figures import draw_curve, draw_grid
from .robustness import evaluate, main_metric, parse_attacks, write_robustness

__all__ = [
    'DenoisingLoss',
    'draw_curve',
    'draw_grid',
    'evaluate',
    'main_metric',
    'parse_attacks',
    'write_robustness',
]
