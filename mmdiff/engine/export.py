"""Turn a finished training of a prior into a folder that others can use."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mmcv
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from mmengine.dataset import pseudo_collate
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from torch import nn

from mmdiff.diffusion import DiffusionModel, sample_grid
from mmdiff.utils.digests import digest_file
from mmdiff.utils.files import whole_folder
from mmdiff.utils.modules import unwrap


@dataclass(frozen=True)
class PriorCard:
    """What the README of an exported prior says.

    Args:
        name: Name of its folder.
        size: Side in pixels of the images.
        num_parameters: Number of weights.
        num_classes: Number of classes; 0 is unconditional.
        num_images: Number of training images.
        data: Where they lay, as Markdown (:func:`describe_data`).
        command: The command that trained it.
        steps: Number of training steps.
        batch_size: Images in a step, on all devices.
        seed: Seed of the training.
        average: Which weights they are.
        dtype: Precision of the stored weights.
        held_out: Held-out loss by noise level; empty if it was not measured.
    """

    name: str
    size: int
    num_parameters: int
    num_classes: int
    num_images: int
    data: str
    command: str
    steps: int
    batch_size: int
    seed: int
    average: str
    dtype: str
    held_out: Mapping[str, float]

    def render(self) -> str:
        """Write the card as Markdown."""
        environment = Environment(
            loader=PackageLoader('mmdiff', 'assets'),
            undefined=StrictUndefined,
            keep_trailing_newline=True,
            trim_blocks=True,
        )
        return environment.get_template('prior_card.md.j2').render(card=self)


def export_prior(
    runner: Runner, folder: Path, command: str, dtype: str = 'float32', num: int = 16
) -> None:
    """Write weights, noise schedule, samples, loss curve and a README.

    Args:
        runner: After training a ``DiffusionPretrainer``. With an ``EMAHook`` the
            averaged weights are exported.
        folder: Written whole or not at all; what was there is replaced.
        command: The command that the README names.
        dtype: Precision of the stored weights.
        num: Number of images in the grid of samples.
    """
    model, average = trained_model(runner)
    prior: DiffusionModel = model.diffusion.eval()
    prior.cast(dtype)
    with whole_folder(folder, replace=True) as partial:
        prior.save_pretrained(partial)
        prior.cast('float32')
        grid = sample_grid(prior, num, steps=50)
        mmcv.imwrite(mmcv.rgb2bgr(grid), str(partial / 'samples.png'))
        draw_losses(partial / 'loss.png', read_scalars(Path(runner.work_dir)))
        card = PriorCard(
            name=folder.name,
            size=prior.image_size,
            num_parameters=sum(p.numel() for p in prior.parameters()),
            num_classes=prior.num_classes,
            num_images=len(runner.train_dataloader.dataset),
            data=describe_data(runner.cfg.train_dataloader.dataset),
            command=command,
            steps=runner.iter,
            batch_size=runner.cfg.train_dataloader.batch_size * runner.world_size,
            seed=runner.seed,
            average=average,
            dtype=dtype,
            held_out=measure_held_out(runner, model),
        )
        (partial / 'README.md').write_text(card.render())
        write_checksums(partial)
    runner.logger.info(f'Exported the prior to {folder}')


def describe_data(dataset: Mapping) -> str:
    """Say where the images lay; of wrappers, those of all datasets inside."""
    if dataset.get('datasets'):
        return ' and '.join(describe_data(part) for part in dataset['datasets'])
    if dataset.get('dataset'):
        return describe_data(dataset['dataset'])
    root = dataset.get('data_root') or 'not named'
    return f'`{root}`, `{dataset.get("ann_file") or dataset.get("data_prefix")}`'


def trained_model(runner: Runner) -> tuple[nn.Module, str]:
    """Return what was trained, averaged if it is, and a word for it."""
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            return hook.ema_model.module, 'exponential moving average'
    return unwrap(runner.model), 'last iterate'


def write_checksums(folder: Path) -> None:
    """Write a ``SHA256`` beside all weights; a latent prior has subfolders of them."""
    for weights in folder.rglob('diffusion_pytorch_model.safetensors'):
        line = f'{digest_file(weights)}  {weights.name}\n'
        weights.with_name('SHA256').write_text(line)


def measure_held_out(runner: Runner, model: nn.Module) -> dict[str, float]:
    """Measure the mean loss per noise level on the images of ``val_dataloader``.

    It is empty if the runner has no such dataloader.
    """
    if runner.val_loop is None:
        return {}
    dataset = runner.val_loop.dataloader.dataset
    losses: list[dict[str, float]] = []
    with torch.no_grad():
        for start in range(0, len(dataset), 32):
            chosen = range(start, min(start + 32, len(dataset)))
            losses += model.val_step(pseudo_collate([dataset[i] for i in chosen]))
    return {
        level: sum(loss[level] for loss in losses) / len(losses) for level in losses[0]
    }


def read_scalars(work_dir: Path) -> list[dict]:
    """Read what all runs in ``work_dir`` logged, by step; a resumed run's lines win."""
    lines: dict[tuple[int, bool], dict] = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            scalars = json.loads(line)
            lines[scalars.get('step', 0), 'loss' in scalars] = scalars
    return [lines[key] for key in sorted(lines)]


def draw_losses(path: Path, scalars: list[dict]) -> None:
    """Draw training loss and held-out loss per noise level over the steps.

    Args:
        path: PNG to write.
        scalars: See :func:`read_scalars`.
    """
    figure = Figure(figsize=(6, 4), layout='constrained')
    axes = figure.subplots()
    train = [(s['step'], s['loss']) for s in scalars if 'loss' in s]
    if train:
        axes.plot(*zip(*train), color='0.6', label='training')
    names = dict.fromkeys(k for s in scalars for k in s if k.startswith('held_out'))
    for name in names:
        points = [(s['step'], s[name]) for s in scalars if name in s]
        axes.plot(*zip(*points), '-o', ms=3, label=name.rsplit('/', 1)[-1])
    axes.set(xlabel='step', ylabel='denoising loss', yscale='log')
    axes.grid(alpha=0.3)
    if train or names:
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=100)
