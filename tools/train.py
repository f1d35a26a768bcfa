"""Train a model: mmdet's own tools/train.py, with its flags.

--resume where there is nothing yet to resume starts the training, from load_from if the
config names weights: the same command line starts a training and goes on with it.
"""

import argparse
import runpy
import sys
from pathlib import Path

import mmdet
from mmengine.config import Config, DictAction
from mmengine.runner import find_latest_checkpoint

from mmdiff.utils.configs import in_a_sentence, is_mistake, work_dir_of


def without_idle_resume(arguments: list[str]) -> list[str]:
    """Take --resume off a command line whose work dir has no checkpoint.

    mmengine would forget load_from there, and train from random weights.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('config', nargs='?')
    parser.add_argument('--resume', nargs='?', const='auto')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    for flag in ('--work-dir', '--launcher', '--local_rank', '--local-rank'):
        parser.add_argument(flag)
    args, _ = parser.parse_known_args(arguments)
    if args.resume != 'auto' or args.config is None:
        return arguments
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    work_dir = work_dir_of(cfg, args.config, args.work_dir)
    if find_latest_checkpoint(work_dir) is not None:
        return arguments
    print(f'train.py: nothing to resume in {work_dir}, so the training starts.')
    kept = []
    for before, word in zip(['', *arguments], arguments):
        named = before == '--resume' and word == 'auto'
        if word not in ('--resume', '--resume=auto') and not named:
            kept.append(word)
    return kept


def main() -> None:
    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
    try:
        sys.argv[1:] = without_idle_resume(sys.argv[1:])
        runpy.run_path(str(script), run_name='__main__')
    except Exception as error:
        if not is_mistake(error):
            raise
        sys.exit(f'train.py: {in_a_sentence(error)}')


if __name__ == '__main__':
    main()
