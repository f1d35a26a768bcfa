"""Pictures of robustness: mAP over the budget, and attacked images with detections."""

import copy
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import mmcv
import numpy as np
import torch
from matplotlib.figure import Figure
from mmdet.visualization import DetLocalVisualizer
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner

from mmdiff.attacks import Attack

from .robustness import main_metric


def draw_curve(path: str | Path, models: dict[str, Sequence[dict]]) -> None:
    """mAP over eps: one line for each model and attack; eps 0 is the clean mAP.

    Args:
        path: Image file to write.
        models: Results of :func:`mmdiff.evaluation.evaluate` by name of model.
    """
    figure = Figure(figsize=(6, 4), layout='constrained')
    axes = figure.subplots()
    for k, (name, results) in enumerate(models.items()):
        clean = next(main_metric(r) for r in results if r['attack'] == 'clean')
        kinds = dict.fromkeys(
            r['attack'] for r in results if r['attack'] != 'clean' and r['eps']
        )
        for attack, style in zip(kinds, cycle(('-o', '--s', ':^', '-.d'))):
            points = [(0.0, clean)]
            points += [
                (r['eps'], main_metric(r)) for r in results if r['attack'] == attack
            ]
            xs, ys = zip(*sorted(points))
            axes.plot(xs, ys, style, color=f'C{k}', label=f'{name}, {attack.upper()}')
    axes.set(xlabel='eps (Linf, of 255)', ylabel='mAP at IoU 0.5', ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_grid(
    path: str | Path,
    runners: dict[str, Runner],
    attack: Attack,
    indices: Sequence[int] = (0, 1, 2),
    score_thr: float = 0.4,
) -> None:
    """Clean and attacked images with each model's detections, and the change itself.

    Args:
        path: Image file to write.
        runners: By name of model, each with its weights loaded.
        attack: Attack on every model.
        indices: Of the test images to show.
        score_thr: Detections below are not drawn.
    """
    titles, columns = [], []
    for name, runner in runners.items():
        model = runner.model.eval()
        dataset = runner.test_dataloader.dataset
        visualizer = DetLocalVisualizer(line_width=2)
        visualizer.dataset_meta = dataset.metainfo
        clean_column, attacked_column, change_column = [], [], []
        for index in indices:
            batch = pseudo_collate([dataset[index]])
            attacked = dict(batch, inputs=attack(model, batch))
            for data, column in ((batch, clean_column), (attacked, attacked_column)):
                column.append(_detections(model, data, visualizer, score_thr))
            delta = attacked['inputs'][0].cpu() - batch['inputs'][0]
            # Mid grey is no change; ten times as strong, or nothing would show.
            change_column.append(_to_image(127.5 + 10 * delta))
        columns += [clean_column, attacked_column, change_column]
        budget = '' if attack.eps is None else f', eps {attack.eps:g}'
        kind = type(attack).__name__
        titles += [f'{name}: clean', f'{name}: {kind}{budget}', 'change x 10']
    size = 2 * len(columns), 2.1 * len(indices)
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots(len(indices), len(columns), squeeze=False)
    for j, (title, column) in enumerate(zip(titles, columns)):
        axes[0, j].set_title(title, fontsize=8)
        for i, image in enumerate(column):
            axes[i, j].imshow(image)
            axes[i, j].axis('off')
    figure.savefig(path, dpi=130)


def _to_image(x: torch.Tensor) -> np.ndarray:
    """(3, H, W) BGR in 0..255 -> (H, W, 3) RGB uint8."""
    return x.clamp(0, 255).round().byte().flip(0).permute(1, 2, 0).cpu().numpy()


@torch.no_grad()
def _detections(model, batch: dict, visualizer, score_thr: float) -> np.ndarray:
    image = _to_image(batch['inputs'][0].float())
    samples = copy.deepcopy(batch['data_samples'])
    found = model.test_step(dict(batch, data_samples=samples))[0].cpu()
    # Detections are at the scale of the file: show them there.
    height, width = found.ori_shape
    visualizer.add_datasample(
        'image',
        mmcv.imresize(image, (width, height)),
        found,
        draw_gt=False,
        pred_score_thr=score_thr,
    )
    return visualizer.get_image()
