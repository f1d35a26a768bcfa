"""Write docs/compatibility-sources.md: which diffusion sources load."""

import argparse
import json
import tempfile
from pathlib import Path

import diffusers
import safetensors.torch

from mmdiff.diffusion import DiffusionModel
from mmdiff.diffusion.pipelines import read_layout
from mmdiff.diffusion.scheduler_files import read_scheduler

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Diffusion sources: what loads

Written by `python tools/source_compatibility.py` from the schedulers of diffusers and
from the layouts of published pipelines. Refusals come before any weights are read.

"""
UNET, VAE = ['diffusers', 'UNet2DModel'], ['diffusers', 'AutoencoderKL']
CONDITIONED = ['diffusers', 'UNet2DConditionModel']
TEXT = ['transformers', 'CLIPTextModel']
SECOND_TEXT = ['transformers', 'CLIPTextModelWithProjection']
PIPELINES = {
    'DDPMPipeline': {'unet': UNET},
    'StableDiffusionPipeline': {'unet': CONDITIONED, 'vae': VAE, 'text_encoder': TEXT},
    'LDMPipeline': {'unet': UNET, 'vqvae': ['diffusers', 'VQModel']},
    'KandinskyV22Pipeline': {'unet': CONDITIONED, 'movq': ['diffusers', 'VQModel']},
    'StableDiffusionXLPipeline': {
        'unet': CONDITIONED,
        'vae': VAE,
        'text_encoder': TEXT,
        'text_encoder_2': SECOND_TEXT,
    },
    'StableDiffusionXLPipeline (refiner)': {
        'unet': CONDITIONED,
        'vae': VAE,
        'text_encoder': [None, None],
        'text_encoder_2': SECOND_TEXT,
    },
    'StableDiffusionImageVariationPipeline': {
        'unet': CONDITIONED,
        'vae': VAE,
        'image_encoder': ['transformers', 'CLIPVisionModelWithProjection'],
    },
    'DiTPipeline': {'transformer': ['diffusers', 'DiTTransformer2DModel'], 'vae': VAE},
    'PixArtSigmaPipeline': {
        'transformer': ['diffusers', 'PixArtTransformer2DModel'],
        'vae': VAE,
        'text_encoder': ['transformers', 'T5EncoderModel'],
    },
    'StableDiffusion3Pipeline': {
        'transformer': ['diffusers', 'SD3Transformer2DModel'],
        'vae': VAE,
        'text_encoder': SECOND_TEXT,
    },
    'FluxPipeline': {
        'transformer': ['diffusers', 'FluxTransformer2DModel'],
        'vae': VAE,
        'text_encoder': TEXT,
    },
}
BLOCKS = {
    'block_out_channels': (4, 8),
    'norm_num_groups': 2,
    'down_block_types': ('DownBlock2D', 'CrossAttnDownBlock2D'),
    'up_block_types': ('CrossAttnUpBlock2D', 'UpBlock2D'),
    'cross_attention_dim': 8,
    'attention_head_dim': 2,
}
SDXL = {
    **BLOCKS,
    'addition_embed_type': 'text_time',
    'addition_time_embed_dim': 4,
    'projection_class_embeddings_input_dim': 32,
}
TINY_VAE = {
    'block_out_channels': (4, 4),
    'norm_num_groups': 2,
    'down_block_types': ('DownEncoderBlock2D',) * 2,
    'up_block_types': ('UpDecoderBlock2D',) * 2,
}


def scheduler_answer(name: str, folder: Path) -> str:
    """Return what reading a scheduler of this class gives."""
    (folder / 'scheduler_config.json').write_text(json.dumps({'_class_name': name}))
    try:
        read_scheduler(folder)
    except ValueError as error:
        return str(error).replace(str(folder), 'FOLDER')
    return 'loads'


def pipeline_answer(name: str, folder: Path) -> str:
    """Return what a pipeline of this layout gives."""
    parts = PIPELINES[name]
    for part, (library, kind) in parts.items():
        if library == 'diffusers':
            (folder / part).mkdir(parents=True)
            config = folder / part / 'config.json'
            config.write_text(json.dumps({'_class_name': kind}))
    index = json.dumps({'_class_name': name.split()[0], **parts})
    (folder / 'model_index.json').write_text(index)
    try:
        read_layout(folder)
    except ValueError as error:
        return str(error).replace(str(folder), 'FOLDER')
    return 'loads'


def keyword_answers(folder: Path) -> dict[str, str]:
    """Return what tiny priors give with the keywords that change or replace parts."""
    sd, sdxl = (
        {'type': 'LatentDiffusion', 'unet': unet, 'vae': TINY_VAE}
        for unet in (BLOCKS, SDXL)
    )
    whole, cut = folder / 'FILE.safetensors', folder / 'OTHER.safetensors'
    state = DiffusionModel.from_pretrained(sd).unet.state_dict()
    safetensors.torch.save_file(state, whole)
    state.pop('conv_in.weight')
    safetensors.torch.save_file(state, cut)
    sizes = (1024, 1024, 0, 0, 1024, 1024)
    calls = {
        "`'FILE.safetensors'` of Stable Diffusion": (whole, {}),
        "`unet_weights='FILE.safetensors'` that fits": (sd, {'unet_weights': whole}),
        '`unet_weights` that lacks a name': (sd, {'unet_weights': cut}),
        '`time_ids` for SDXL': (sdxl, {'time_ids': sizes}),
        '`time_ids` for Stable Diffusion 1.x, 2.x': (sd, {'time_ids': sizes}),
    }
    answers = {}
    for name, (source, keywords) in calls.items():
        try:
            DiffusionModel.from_pretrained(source, **keywords)
            answers[name] = 'loads'
        except ValueError as error:
            answers[name] = str(error).replace(f'{folder}/', '')
    return answers


def render() -> str:
    """Return the page."""
    names = [n for n in dir(diffusers) if n.endswith('Scheduler') and n[:4] != 'Flax']
    lines = [HEAD, '| scheduler | answer |\n|---|---|\n']
    with tempfile.TemporaryDirectory() as root:
        for name in names:
            lines.append(f'| `{name}` | {scheduler_answer(name, Path(root))} |\n')
        lines.append('\n| pipeline | answer |\n|---|---|\n')
        for name in PIPELINES:
            folder = Path(root) / name
            folder.mkdir()
            lines.append(f'| `{name}` | {pipeline_answer(name, folder)} |\n')
        lines.append('\n| keyword | answer |\n|---|---|\n')
        for name, answer in keyword_answers(Path(root)).items():
            lines.append(f'| {name} | {answer} |\n')
    return ''.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--out', default=str(ROOT / 'docs' / 'compatibility-sources.md')
    )
    Path(parser.parse_args().out).write_text(render(), encoding='utf-8')


if __name__ == '__main__':
    main()
