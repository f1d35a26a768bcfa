"""Package mmdiff; configs travel inside it, as in the packages of OpenMMLab."""

import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent

# Two families give the same imports (mmengine, mmcv, mmdet, mmpretrain) and clash, so
# neither is a requirement; mmdiff.utils.environment says at import which one is missing.
ONEDL = [
    'onedl-mmengine>=0.10.12,<0.11',
    'onedl-mmcv>=2.3.6,<2.4',
    'onedl-mmdetection>=3.5.1,<3.6',
    'onedl-mmpretrain>=1.3.6,<1.4',
    'torch>=2.4,<2.13',
]
OPENMMLAB = [
    'mmengine>=0.10.7,<0.11',
    'mmcv>=2.1,<2.2',
    'mmdet>=3.3,<3.4',
    'mmpretrain>=1.2,<1.3',
    'torch>=2.1,<2.2',
    'numpy<2',
    'diffusers<0.31',
    'setuptools<81',
]
# Text encoder of Stable Diffusion. mmpretrain (which mmdet imports) fails beside
# transformers 5; pip then takes a diffusers that allows the hub client of 4.
SD = ['transformers>=4.40,<5']
# The maintained fork of imagecorruptions: seeds, and numpy 2.
CORRUPTIONS = ['imagecorruptions-imaug>=1.1.5']


def add_mim_extension() -> None:
    """Bring configs into the package: linked if editable, else copied."""
    target = HERE / 'mmdiff' / '.mim' / 'configs'
    target.parent.mkdir(exist_ok=True)
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        shutil.rmtree(target)
    editable = any(word in sys.argv for word in ('develop', 'editable_wheel'))
    if editable:
        target.symlink_to(Path('..') / '..' / 'configs')
    else:
        shutil.copytree(
            HERE / 'configs', target, ignore=shutil.ignore_patterns('__pycache__')
        )


if __name__ == '__main__':
    add_mim_extension()
    setup(
        name='mmdiff',
        version='0.1.0',
        description='Frozen diffusion U-Nets as robust backbones for MMDetection',
        long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
        long_description_content_type='text/markdown',
        license='Apache-2.0',
        python_requires='>=3.10,<3.13',
        packages=find_packages(include=['mmdiff', 'mmdiff.*']),
        package_data={'mmdiff': ['assets/**/*', '.mim/configs/**/*.py']},
        install_requires=[
            'diffusers>=0.27,<0.43',
            'huggingface_hub',
            'jinja2',
            'matplotlib',
            'numpy',
            'rich',
            'safetensors',
            'torch>=2.1',
        ],
        extras_require={
            'onedl': ONEDL,
            'openmmlab': OPENMMLAB,
            'sd': SD,
            'corruptions': CORRUPTIONS,
            'bench': ['adversarial-robustness-toolbox>=1.20,<2'],
            'test': ['pytest>=8,<10', 'ruff==0.17.5', *SD, *CORRUPTIONS],
        },
    )
