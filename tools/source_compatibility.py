"""Write docs/compatibility-sources.md: which diffusion sources load."""

import argparse
import json
import tempfile
from pathlib import Path

import diffusers

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
# What is asked for in ways that are no pipeline, and what answers.
KEYWORDS = """
| source | answer |
|---|---|
| `source='FILE.safetensors', config=FOLDER` (Stable Diffusion 1.x, 2.x, SDXL in one file) | loads; without `config` it is refused with what the folder must have |
| `unet_weights='FILE.safetensors'` (CleanDIFT) | loads if each name and shape is the U-Net's; a missing or superfluous name is refused |
| `time_ids=(H, W, TOP, LEFT, H, W)` | SDXL alone; refused elsewhere |
"""


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
    return ''.join([*lines, KEYWORDS])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--out', default=str(ROOT / 'docs' / 'compatibility-sources.md')
    )
    Path(parser.parse_args().out).write_text(render(), encoding='utf-8')


if __name__ == '__main__':
    main()
