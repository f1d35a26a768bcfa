"""Train a model: mmdet's own tools/train.py, with its flags."""

import runpy
import sys
from pathlib import Path

import mmdet

from mmdiff.utils.configs import in_a_sentence, is_mistake

if __name__ == '__main__':
    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
    try:
        runpy.run_path(str(script), run_name='__main__')
    except Exception as error:
        if not is_mistake(error):
            raise
        sys.exit(f'train.py: {in_a_sentence(error)}')
