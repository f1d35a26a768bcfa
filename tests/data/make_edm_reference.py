"""Write edm_reference.safetensors: what NVIDIA Modulus's EDM networks compute.

The reference is NVIDIA Modulus 0.9.0 (Apache-2.0):

    pip download --no-deps nvidia-modulus==0.9.0
    unzip nvidia_modulus-0.9.0-*.whl -d modulus
    python tests/data/make_edm_reference.py modulus

Weights are not stored: :func:`fill` makes them from their names, here and in the test.
Modulus differs from EDM in eval mode (its group norm then takes the unbiased variance),
so the networks run in train mode without dropout.
"""

import sys
import types
import zlib
from pathlib import Path

import torch
from safetensors.torch import save

OUT = Path(__file__).with_name('edm_reference.safetensors')
SHARED = dict(img_resolution=16, img_channels=3, num_blocks=2, dropout=0.0)
SONG = dict(SHARED, model_type='SongUNet', model_channels=8, attn_resolutions=[8])
CONFIGS = {
    'ddpmpp': dict(SONG, channel_mult=[1, 2], label_dim=3, augment_dim=9),
    'ncsnpp': dict(
        SONG,
        channel_mult=[2, 1, 3],
        embedding_type='fourier',
        channel_mult_noise=2,
        encoder_type='residual',
        resample_filter=[1, 3, 3, 1],
    ),
    'adm': dict(
        SHARED,
        model_type='DhariwalUNet',
        model_channels=64,
        channel_mult=[1, 2],
        attn_resolutions=[16, 8],
        label_dim=3,
        augment_dim=9,
    ),
}
SIZES = {'ddpmpp': (16, 16), 'ncsnpp': (16, 24), 'adm': (16, 16)}
LABELS = torch.tensor([2, 0])
SIGMAS = torch.tensor([0.05, 3.0])


def seeded(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal values that follow from a name."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator)


def fill(module: torch.nn.Module) -> None:
    """Give every weight a value that follows from its name; filters keep theirs."""
    for name, value in module.state_dict().items():
        if name.endswith('resample_filter'):
            continue
        new = seeded(name, value.shape)
        if '.norm' in name or '_norm' in name:
            new = 0.2 * new + name.endswith('weight')
        elif value.ndim > 1:
            new = new / value[0].numel() ** 0.5
        elif not name.endswith('freqs'):
            new = 0.2 * new
        value.copy_(new)


def inputs(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Noised images and augmentation vectors of a case."""
    x = seeded(f'{kind} image', (2, 3, *SIZES[kind]))
    augment = seeded(f'{kind} augment', (2, 9))
    return x * (1 + SIGMAS.view(-1, 1, 1, 1)), augment


def pick(value: torch.Tensor, count: int = 48) -> torch.Tensor:
    """``count`` values spread over a tensor, for a small file."""
    flat = value.detach().flatten()
    index = torch.linspace(0, len(flat) - 1, count, dtype=torch.float64)
    return flat[index.long()].clone()


def import_modulus(folder: str):
    """Import the networks alone: their package asks for much that they do not use."""

    class Annotate:
        def __init__(self, *args, **kwargs): ...
        def __enter__(self): ...
        def __exit__(self, *args): ...
        def __call__(self, function):
            return function

    class Module(torch.nn.Module):
        def __init__(self, meta=None):
            super().__init__()

    def stub(name, **members):
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(members)

    torch.cuda.nvtx.range_push = torch.cuda.nvtx.range_pop = lambda *args: None
    stub('nvtx', annotate=Annotate)
    stub('modulus', __path__=[str(Path(folder, 'modulus'))])
    stub('modulus.models', __path__=[str(Path(folder, 'modulus', 'models'))])
    stub('modulus.models.meta', ModelMetaData=object)
    stub('modulus.models.module', Module=Module)
    from modulus.models import diffusion

    return diffusion


def tap_modules(config: dict) -> dict[str, tuple[str, bool]]:
    """Tap -> module of the reference, and whether its input (not output) is the tap."""
    levels, blocks = len(config['channel_mult']), config['num_blocks']
    sides = [config['img_resolution'] >> level for level in range(levels)]
    names = [f'{side}x{side}' for side in sides]
    taps = {'mid': (f'dec.{names[-1]}_in1', False)}
    for i, name in enumerate(names):
        for j in range(blocks):
            taps[f'down.{i}.{j}'] = (f'enc.{name}_block{j}', False)
        if i:  # past what an encoder adds after downsampling
            taps[f'down.{i - 1}'] = (f'enc.{name}_block0', True)
    taps[f'down.{i}'] = taps[f'down.{i}.{blocks - 1}']
    for i, name in enumerate(reversed(names)):
        for j in range(blocks + 1):
            taps[f'up.{i}.{j}'] = (f'dec.{name}_block{j}', False)
        if i:
            taps[f'up.{i - 1}'] = (f'dec.{name}_up', False)
    taps[f'up.{i}'] = taps[f'up.{i}.{blocks}']
    return taps


def main(folder: str) -> None:
    diffusion = import_modulus(folder)
    out, names = {}, {}
    for kind, config in CONFIGS.items():
        network = diffusion.EDMPrecond(**config).train()
        fill(network)
        names[kind] = '\n'.join(sorted(network.state_dict()))
        for tap, (path, before) in tap_modules(config).items():
            module = network.model.get_submodule(path)

            def record(_module, args, result=None, key=f'{kind}/{tap}'):
                out[key] = pick(args[0] if result is None else result)

            if before:
                module.register_forward_pre_hook(record)
            else:
                module.register_forward_hook(record)
        x, augment = inputs(kind)
        labels = torch.nn.functional.one_hot(LABELS, 3).float()
        args = dict(class_labels=labels if config.get('label_dim') else None)
        if config.get('augment_dim'):
            out[f'{kind}/augmented'] = pick(
                network(x, SIGMAS, augment_labels=augment, **args), 384
            )
        out[f'{kind}/no-class'] = pick(network(x, SIGMAS), 384)
        out[f'{kind}/output'] = pick(network(x, SIGMAS, **args), 384)
    OUT.write_bytes(save(out, metadata=names))


if __name__ == '__main__':
    with torch.no_grad():
        main(sys.argv[1])
