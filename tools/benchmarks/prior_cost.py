"""Time and memory of a prior's features, forward and with the gradient to the input.

Weights are random: they change neither. Prints one row of a Markdown table. Memory is
the peak of this process (of the GPU's allocator with ``--device cuda``).
"""

import argparse
import resource
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from mmdiff import DiffusionModel
from mmdiff.diffusion.converters.adm import PRESETS, adm_unet_config

# Stable Diffusion 1.5, as its repository's config.json files say.
SD15_UNET = dict(
    sample_size=64,
    cross_attention_dim=768,
    attention_head_dim=8,
    block_out_channels=(320, 640, 1280, 1280),
)
SD15_VAE = dict(
    sample_size=512,
    layers_per_block=2,
    block_out_channels=(128, 256, 512, 512),
    down_block_types=('DownEncoderBlock2D',) * 4,
    up_block_types=('UpDecoderBlock2D',) * 4,
)
# EDM's class-conditional CIFAR-10 network (DDPM++).
EDM_CIFAR10 = dict(
    type='EDMPrecond',
    img_resolution=32,
    img_channels=3,
    label_dim=10,
    model_type='SongUNet',
    augment_dim=9,
    channel_mult=[2, 2, 2],
)
# Source, size of the image, taps.
PRIORS = {
    'adm256': (
        dict(type='UNet2DModel', **adm_unet_config(PRESETS['imagenet256-uncond'])),
        256,
        ['up.2', 'up.2.1', 'up.1.1', 'mid'],
    ),
    'sd15': (
        dict(type='LatentDiffusion', unet=SD15_UNET, vae=SD15_VAE),
        512,
        ['up.3.2', 'up.2.1', 'up.1.1', 'up.0.1'],
    ),
    'edm-cifar10': (EDM_CIFAR10, 32, ['mid']),
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('prior', help=f'{", ".join(PRIORS)}, or a folder or hub id')
    parser.add_argument('--size', type=int, help='side of the image in pixels')
    parser.add_argument('--taps', nargs='+', help='names of taps')
    parser.add_argument('--dtype', default='bfloat16')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--checkpointing', action='store_true', help='of activations')
    return parser.parse_args()


def load_prior(source: str | dict, taps: Sequence[str], dtype: str) -> DiffusionModel:
    """Build a prior, frozen and cut to its taps, in its precision from the start.

    Weights of fp32 would count towards the peak of memory.
    """
    torch.set_default_dtype(getattr(torch, dtype))
    model = DiffusionModel.from_pretrained(source, random_weights=True, dtype=dtype)
    torch.set_default_dtype(torch.float32)
    model.truncate(taps)
    return model.requires_grad_(False)


def sum_features(model: DiffusionModel, x: Tensor, taps: Sequence[str]) -> Tensor:
    """Noise an image and add up its features."""
    moment = 100 if model.time_unit == 'timestep' else 0.5
    cond = x.new_zeros(1, dtype=torch.long) if model.num_classes else None
    x0 = model.encode(x)
    x_t = model.add_noise(x0, moment, torch.randn_like(x0))
    return sum(f.sum() for f in model.features(x_t, moment, taps, cond).values())


def peak_memory(device: str) -> float:
    """Return the peak of memory until now, in GiB."""
    if device.startswith('cuda'):
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    args = parse_args()
    source, size, taps = PRIORS.get(args.prior, (args.prior, 256, ['mid']))
    size, taps = args.size or size, args.taps or taps
    model = load_prior(source, taps, args.dtype).to(args.device)
    if args.checkpointing:
        model.enable_gradient_checkpointing()
    count = sum(value.numel() for value in model.parameters())
    x = torch.rand(1, 3, size, size, device=args.device) * 2 - 1
    cells = []
    for gradient in (False, True):
        x.requires_grad_(gradient)
        start = time.perf_counter()
        value = sum_features(model, x, taps)
        if gradient:
            value.backward()
        value.item()  # waits for the device
        cells.append(f'{time.perf_counter() - start:.1f}')
        cells.append(f'{peak_memory(args.device):.1f}')
    print('| prior | px | dtype | parameters | s | GiB | with gradient s | GiB |')
    row = [args.prior, size, args.dtype, f'{count / 1e6:.0f} M', *cells]
    print('|' + '---|' * 8, '| ' + ' | '.join(map(str, row)) + ' |', sep='\n')


if __name__ == '__main__':
    main()
