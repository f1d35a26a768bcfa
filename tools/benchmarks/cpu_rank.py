"""Run a script as one rank of several on a CPU: ``cpu_rank.py SCRIPT [ARGUMENT ...]``.

mmengine's launcher selects a GPU for every rank, and its wrapper names it to DDP;
where there is none, neither has a meaning.
"""

import runpy
import sys

import torch
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    torch.cuda.set_device = lambda *_: None
    init = DistributedDataParallel.__init__
    DistributedDataParallel.__init__ = lambda self, *args, device_ids, **kwargs: init(
        self, *args, **kwargs
    )
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name='__main__')


if __name__ == '__main__':
    main()
