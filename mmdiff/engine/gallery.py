"""Clean and attacked images side by side, with what models see in them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner

from mmdiff.attacks import Attack, oracle_of
from mmdiff.utils.files import whole_file
from mmdiff.utils.modules import unwrap

from .ground_truth import ground_truth_scale, leaf_pipelines, metainfo_of

# Paints on an image, (H, W, 3) RGB, what a data sample has of predictions.
Painter = Callable[[np.ndarray, Any], np.ndarray]
# How much stronger a change is shown, or nothing would be seen; mid grey is no change.
CHANGE = 10
# Images of classifiers are shown this large, or names of classes would not fit.
SHOWN_SIDE = 256


def draw_grid(
    path: str | Path,
    runners: Mapping[str, Runner],
    attack: Attack,
    indices: Sequence[int] = (0, 1, 2),
    score_thr: float = 0.4,
) -> None:
    """Draw clean and attacked images with each model's predictions, and the change.

    Args:
        path: Image file to write, whole or not at all.
        runners: Runners by name of model, each with its weights loaded.
        attack: Attack on every model.
        indices: Numbers of the test images to show.
        score_thr: Detections below are not drawn; of classifiers all are.

    Raises:
        GradientBlocked: If the attack's gradient does not reach the images.
    """
    from matplotlib.figure import Figure

    budget = '' if attack.eps is None else f', eps {attack.eps:g}'
    if attack.mask is not None:
        budget += f', mask {attack.mask}'
    titles, columns = [], []
    for name, runner in runners.items():
        columns += _columns(runner, attack, indices, score_thr)
        attacked = f'{name}: {type(attack).__name__}{budget}'
        titles += [f'{name}: clean', attacked, f'change x {CHANGE}']
    size = 2 * len(columns), 2.1 * len(indices)
    figure = Figure(figsize=size, layout='constrained')
    axes = figure.subplots(len(indices), len(columns), squeeze=False)
    for j, (title, images) in enumerate(zip(titles, columns)):
        axes[0, j].set_title(title, fontsize=8)
        for i, image in enumerate(images):
            axes[i, j].imshow(image)
            axes[i, j].axis('off')
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=130)


def try_to_draw(
    path: str | Path,
    runners: Mapping[str, Runner],
    attack: Attack,
    indices: Sequence[int] = (0, 1, 2),
) -> bool:
    """Draw a grid, or log in one sentence why there is none: a picture costs no run.

    Args:
        path: See :func:`draw_grid`.
        runners: See :func:`draw_grid`.
        attack: See :func:`draw_grid`.
        indices: See :func:`draw_grid`.

    Returns:
        Whether the file was written.
    """
    try:
        draw_grid(path, runners, attack, indices)
    except Exception as error:
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        logger = next(iter(runners.values())).logger
        logger.warning(f'{path} is not drawn ({reason}); the numbers stand without it.')
        return False
    return True


def _columns(
    runner: Runner, attack: Attack, indices: Sequence[int], score_thr: float
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Clean images, attacked images and changes of one model."""
    model = runner.model.eval()
    dataset = runner.test_dataloader.dataset
    oracle = oracle_of(model, ground_truth_scale(dataset))
    painter = PAINTERS[oracle.task](metainfo_of(dataset), score_thr)
    rgb = not _loads_files(dataset)
    clean, attacked, changes = [], [], []
    for index in indices:
        batch = pseudo_collate([dataset[index]])
        inputs = attack.run(oracle, batch).inputs
        adversarial = {**batch, 'inputs': inputs}
        clean.append(_predictions(model, batch, painter, rgb))
        attacked.append(_predictions(model, adversarial, painter, rgb))
        delta = inputs[0].cpu() - batch['inputs'][0]
        changes.append(_to_image(127.5 + CHANGE * delta, rgb))
    return clean, attacked, changes


def _loads_files(dataset: Any) -> bool:
    """Whether images are of files, which are loaded BGR; sets of arrays give RGB."""
    pipelines = [names for _, names in leaf_pipelines(dataset)]
    return any(name.startswith('Load') for names in pipelines for name in names)


def _to_image(x: torch.Tensor, rgb: bool = False) -> np.ndarray:
    """(C, H, W) in 0..255, BGR first unless ``rgb`` -> (H, W, 3) RGB uint8.

    One channel is shown in grey; of more than three the first three are shown, and
    what is missing of three is black.
    """
    if len(x) == 1:
        x = x.expand(3, -1, -1)
    x = torch.cat([x, torch.zeros_like(x)])[:3] if len(x) == 2 else x[:3]
    x = x.clamp(0, 255).round().byte()
    return (x if rgb else x.flip(0)).permute(1, 2, 0).cpu().numpy()


@torch.no_grad()
def _predictions(
    model: torch.nn.Module, batch: dict, painter: Painter, rgb: bool
) -> np.ndarray:
    """An image with what the model sees in it."""
    image = _to_image(batch['inputs'][0].float(), rgb)
    samples = copy.deepcopy(batch['data_samples'])
    sample = unwrap(model).test_step({**batch, 'data_samples': samples})[0].cpu()
    return painter(image, sample)


def _box_painter(metainfo: Mapping[str, Any], score_thr: float) -> Painter:
    """Paint the detections of at least a score."""
    import mmcv
    from mmdet.visualization import DetLocalVisualizer

    visualizer = DetLocalVisualizer(line_width=2)
    visualizer.dataset_meta = metainfo

    def paint(image: np.ndarray, sample: Any) -> np.ndarray:
        # Detections are at the scale of the file: show them there.
        height, width = sample.ori_shape
        visualizer.add_datasample(
            'image',
            mmcv.imresize(image, (width, height)),
            sample,
            draw_gt=False,
            pred_score_thr=score_thr,
        )
        return visualizer.get_image()

    return paint


def _class_painter(metainfo: Mapping[str, Any], score_thr: float) -> Painter:
    """Paint true and predicted class, and its score, whatever that is."""
    from mmpretrain.visualization import UniversalVisualizer

    visualizer = UniversalVisualizer()
    visualizer.dataset_meta = dict(metainfo)

    def paint(image: np.ndarray, sample: Any) -> np.ndarray:
        return visualizer.visualize_cls(image, sample, resize=SHOWN_SIDE)

    return paint


PAINTERS: dict[str, Callable[[Mapping[str, Any], float], Painter]] = {
    'classification': _class_painter,
    'detection': _box_painter,
}
