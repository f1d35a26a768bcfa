"""Train a model: mmdet's own tools/train.py, with its flags."""

import runpy
from pathlib import Path

import mmdet

if __name__ == '__main__':
    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
    runpy.run_path(str(script), run_name='__main__')
