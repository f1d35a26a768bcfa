"""Train a diffusion prior and export it as a diffusers folder."""

import argparse
import shutil
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.hooks import EMAHook
from mmengine.runner import Runner


def export(runner: Runner, folder: Path, num_samples: int) -> None:
    """Write the averaged weights in fp16, and a grid of samples beside them."""
    model = runner.model
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            model = hook.ema_model.module
    diffusion = model.diffusion.eval()
    patch, size = diffusion.patch_size, diffusion.unet.config.sample_size
    images = diffusion.sample(
        (num_samples, patch * size, patch * size),
        generator=torch.Generator().manual_seed(0),
    )
    images = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    rows = np.array_split(images, max(1, round(num_samples**0.5)))
    grid = np.concatenate([np.concatenate(list(row), 1) for row in rows])
    # Whole or not at all: a half-written prior would be found by the next run.
    partial = folder.with_name(f'{folder.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    diffusion.half().save_pretrained(partial)
    mmcv.imwrite(mmcv.rgb2bgr(grid), str(partial / 'samples.png'))
    for file in partial.iterdir():  # safetensors files are private to their writer
        file.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    runner.logger.info(f'Exported the prior to {folder}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='a config of configs/pretrain')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument('--out', help='folder to export to (WORK_DIR/prior)')
    parser.add_argument(
        '--num-samples', type=int, default=16, help='images in the grid'
    )
    parser.add_argument(
        '--resume', action='store_true', help='go on from the last checkpoint'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='override the config'
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()

    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    cfg.launcher = args.launcher
    cfg.resume = args.resume
    cfg.work_dir = args.work_dir or f'work_dirs/{Path(args.config).stem}'
    runner = Runner.from_cfg(cfg)
    runner.train()
    if runner.rank == 0:
        out = Path(args.out or Path(cfg.work_dir) / 'prior')
        export(runner, out, args.num_samples)


if __name__ == '__main__':
    main()
