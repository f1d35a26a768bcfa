"""Turn a finished training of a prior into a folder that others can use."""

import hashlib
import json
import shutil
from pathlib import Path

import mmcv
import torch
from matplotlib.figure import Figure
from mmengine.dataset import pseudo_collate
from mmengine.hooks import EMAHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmdiff.diffusion import DiffusionModel, sample_grid

CARD = """# {name}

A diffusion prior of {size} px images: {params:.1f} M parameters, {kind}.

- Data: {data}
- Training: `{command}`, {steps} steps of {batch} images, seed {seed}, \
{average}, stored as {dtype}
- Held-out loss by noise level: {held_out}

`model=dict(source='FOLDER')` loads it; the loader compares `SHA256`.

![Loss](loss.png)

Samples (seed 0):

![Samples](samples.png)
"""


def export_prior(
    runner: Runner, folder: Path, command: str, dtype: str = 'float32', num: int = 16
) -> None:
    """Write weights, noise schedule, samples, loss curve and a README.

    Args:
        runner: After training a :class:`DiffusionPretrainer`. With an ``EMAHook`` the
            averaged weights are exported.
        folder: Written whole or not at all; what was there is replaced.
        command: That the README names.
        dtype: Of the stored weights.
        num: Images in the grid of samples.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    average = 'last iterate'
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            model = hook.ema_model.module
            average = 'exponential moving average'
    prior: DiffusionModel = model.diffusion.eval()
    for part in prior.children():  # past the warning of diffusers' own to()
        nn.Module.to(part, getattr(torch, dtype))
    # Whole or not at all: a half-written prior would be found by the next run.
    partial = folder.with_name(f'{folder.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    prior.save_pretrained(partial)
    for part in prior.children():
        nn.Module.to(part, torch.float32)
    mmcv.imwrite(
        mmcv.rgb2bgr(sample_grid(prior, num, steps=50)), str(partial / 'samples.png')
    )
    scalars = read_scalars(Path(runner.work_dir))
    draw_losses(partial / 'loss.png', scalars)
    held_out = measure_held_out(runner, model)
    dataset = runner.cfg.train_dataloader.dataset
    card = CARD.format(
        name=folder.name,
        size=prior.image_size,
        params=sum(p.numel() for p in prior.parameters()) / 1e6,
        kind=f'{prior.num_classes} classes' if prior.num_classes else 'unconditional',
        data=f'{len(runner.train_dataloader.dataset)} images of `{dataset.data_root}`, '
        + f'`{dataset.get("ann_file") or dataset.get("data_prefix")}`',
        command=command,
        steps=runner.iter,
        batch=runner.cfg.train_dataloader.batch_size * runner.world_size,
        seed=runner.seed,
        average=average,
        dtype=dtype,
        held_out=', '.join(f'{k} {v:.4f}' for k, v in held_out.items())
        or 'not measured',
    )
    (partial / 'README.md').write_text(card)
    # Of a latent prior in subfolders; safetensors files are private to their writer.
    for weights in partial.rglob('diffusion_pytorch_model.safetensors'):
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        weights.with_name('SHA256').write_text(f'{digest}  {weights.name}\n')
    for file in partial.rglob('*.*'):
        if file.is_file():
            file.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    runner.logger.info(f'Exported the prior to {folder}')


def measure_held_out(runner: Runner, model: nn.Module) -> dict[str, float]:
    """Mean loss per noise level on the images of ``val_dataloader``; {} without."""
    if runner.val_loop is None:
        return {}
    dataset = runner.val_loop.dataloader.dataset
    found = []
    with torch.no_grad():
        for start in range(0, len(dataset), 32):
            chosen = range(start, min(start + 32, len(dataset)))
            found += model.val_step(pseudo_collate([dataset[i] for i in chosen]))
    return {k: sum(f[k] for f in found) / len(found) for k in found[0]}


def read_scalars(work_dir: Path) -> list[dict]:
    """What all runs in ``work_dir`` logged, by step; a resumed run's lines win."""
    lines: dict[tuple, dict] = {}
    for file in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            lines[entry.get('step', 0), 'loss' in entry] = entry
    return [lines[key] for key in sorted(lines)]


def draw_losses(path: Path, scalars: list[dict]) -> None:
    """Training loss and held-out loss per noise level over the steps."""
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
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=100)
