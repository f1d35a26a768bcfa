"""Write adm_reference.safetensors: what guided-diffusion itself computes.

The official network (MIT) is needed, which nothing else here needs: the package index
has a copy as ``guided_diffusion_sdk`` 1.0.0 (``pip download --no-deps``, unpack), or
clone https://github.com/openai/guided-diffusion. Then::

    PYTHONPATH=where/it/lies python tests/data/make_adm_reference.py

Weights and inputs are drawn from seeds, here and in tests/diffusion/test_adm.py alike,
so that the file holds only names, shapes, and samples of what came out.
"""

import hashlib
import json
from pathlib import Path

import torch

REFERENCE = Path(__file__).with_name('adm_reference.safetensors')
SMALL = dict(num_channels=32, num_res_blocks=1, image_size=16, learn_sigma=True)
# Flags of guided-diffusion. No two levels that meet are equally wide.
VARIANTS = {
    'resnet-new-order': dict(
        SMALL,
        channel_mult='1,2,3',
        num_res_blocks=2,
        num_head_channels=32,
        attention_resolutions='8,4',
        resblock_updown=True,
        use_new_attention_order=True,
        class_cond=True,
    ),
    'resnet-legacy-heads': dict(
        SMALL,
        channel_mult='1,2,4',
        num_heads=4,
        attention_resolutions='16,4',
        resblock_updown=True,
    ),
    'legacy-head-channels': dict(
        SMALL,
        channel_mult='1,2',
        num_head_channels=16,
        attention_resolutions='8',
        resblock_updown=True,
        noise_schedule='cosine',
    ),
    'conv-no-scale-shift': dict(
        SMALL,
        channel_mult='1,2,3',
        num_heads=2,
        attention_resolutions='8',
        use_scale_shift_norm=False,
        use_new_attention_order=True,
        learn_sigma=False,
    ),
    'narrow-first-level': dict(
        SMALL,
        num_channels=64,
        channel_mult='0.5,1,2',
        num_head_channels=64,
        attention_resolutions='4',
        resblock_updown=True,
    ),
}
TIMESTEP, LABEL = 321, 7


def draw(shape: tuple, seed: int) -> torch.Tensor:
    """Uniform in [-1, 1), bit for bit the same everywhere."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(tuple(shape), generator=generator) * 2 - 1


def make_weights(shapes: dict[str, tuple]) -> dict[str, torch.Tensor]:
    """Weights that keep the scale of what runs through; none of them is zero."""
    weights = {}
    for seed, name in enumerate(sorted(shapes)):
        value = draw(shapes[name], seed)
        if value.ndim > 1:
            value *= (3 / value[0].numel()) ** 0.5
        else:
            value = 0.3 * value + (1.0 if name.endswith('weight') else 0.0)
        weights[name] = value
    return weights


def make_input(size: int) -> torch.Tensor:
    return draw((2, 3, size, size), 1234)


def thin(value: torch.Tensor) -> torch.Tensor:
    """About 200 values from all over a tensor."""
    step = max(1, value.numel() // 200) | 1  # odd: not always the same column
    return value.flatten()[::step].clone()


def digest(shapes: dict[str, tuple]) -> str:
    lines = sorted(f'{name} {tuple(shape)}' for name, shape in shapes.items())
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()


def main() -> None:
    from guided_diffusion.script_util import (
        create_gaussian_diffusion,
        create_model,
    )
    from guided_diffusion.unet import UNetModel
    from safetensors.torch import save_file

    from mmdiff.diffusion.converters.adm import DEFAULTS, PRESETS

    def shapes_of(net):
        return {name: tuple(value.shape) for name, value in net.state_dict().items()}

    tensors, metadata = {}, {'variants': {}, 'presets': {}}
    for variant, given in VARIANTS.items():
        flags = {**DEFAULTS, **given}
        # As create_model does, which reads whole numbers only from channel_mult.
        attention = flags['attention_resolutions'].split(',')
        net = UNetModel(
            image_size=flags['image_size'],
            in_channels=3,
            model_channels=flags['num_channels'],
            out_channels=6 if flags['learn_sigma'] else 3,
            num_res_blocks=flags['num_res_blocks'],
            attention_resolutions=[flags['image_size'] // int(r) for r in attention],
            channel_mult=[float(m) for m in flags['channel_mult'].split(',')],
            num_classes=1000 if flags['class_cond'] else None,
            num_heads=flags['num_heads'],
            num_head_channels=flags['num_head_channels'],
            use_scale_shift_norm=flags['use_scale_shift_norm'],
            resblock_updown=flags['resblock_updown'],
            use_new_attention_order=flags['use_new_attention_order'],
        ).eval()
        net.load_state_dict(make_weights(shapes_of(net)))
        metadata['variants'][variant] = shapes_of(net)

        def record(name, variant=variant):
            def hook(_module, _args, out):
                tensors[f'{variant}/{name}'] = thin(out)

            return hook

        for side in ('input_blocks', 'output_blocks'):
            for i, block in enumerate(getattr(net, side)):
                block.register_forward_hook(record(f'{side}.{i}'))
        net.middle_block.register_forward_hook(record('middle_block'))
        x = make_input(flags['image_size'])
        labels = torch.full((2,), LABEL) if flags['class_cond'] else None
        with torch.no_grad():
            prediction = net(x, torch.full((2,), TIMESTEP), labels)
        tensors[f'{variant}/out'] = thin(prediction)
        diffusion = create_gaussian_diffusion(
            steps=1000, noise_schedule=flags['noise_schedule']
        )
        alpha_bar = torch.from_numpy(diffusion.alphas_cumprod).float()
        tensors[f'{variant}/alphas_cumprod'] = thin(alpha_bar)
    for preset, given in PRESETS.items():
        flags = {**DEFAULTS, **given}
        names = create_model.__code__.co_varnames[: create_model.__code__.co_argcount]
        with torch.device('meta'):
            net = create_model(**{k: v for k, v in flags.items() if k in names})
        metadata['presets'][preset] = digest(shapes_of(net))
    metadata = {key: json.dumps(value) for key, value in metadata.items()}
    save_file(tensors, REFERENCE, metadata)
    REFERENCE.chmod(0o644)


if __name__ == '__main__':
    main()
