"""Bring configs into the package, as in the packages of OpenMMLab.

All metadata is in pyproject.toml. What is here lets `mmdiff::NAME` find a config of an
installed package: `mmdiff/.mim` gets the configs and the index of models.
"""

import shutil
import sys
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent


def add_mim_extension(linked: bool) -> None:
    """Fill ``mmdiff/.mim``: with links if the package is editable, else with copies."""
    folder = HERE / 'mmdiff' / '.mim'
    folder.mkdir(exist_ok=True)
    for name in ('configs', 'model-index.yml'):
        target = folder / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        if linked:
            target.symlink_to(Path('..') / '..' / name)
        elif (HERE / name).is_dir():
            ignored = shutil.ignore_patterns('__pycache__')
            shutil.copytree(HERE / name, target, ignore=ignored)
        else:
            shutil.copyfile(HERE / name, target)


if __name__ == '__main__':
    editable = any(word in sys.argv for word in ('develop', 'editable_wheel'))
    add_mim_extension(linked=editable)
    setup()
