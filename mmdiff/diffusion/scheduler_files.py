"""Read the noise schedule that lies beside a prior, whatever class wrote it."""

from pathlib import Path

import diffusers
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from .json_files import one_line, read_json
from .schedule import build_scheduler, check_arguments, check_schedule

# What the table of alpha_bar follows from: they are replaced together.
TABLE_KEYS = (
    'beta_schedule',
    'beta_start',
    'beta_end',
    'trained_betas',
    'num_train_timesteps',
    'rescale_betas_zero_snr',
    'snr_shift_scale',
    'shift',
)
ADVICE = (
    'take a prior with a schedule of the DDPM family (DDPM, DDIM, PNDM, DPMSolver, '
    'UniPC, Euler, ...), or an EDM checkpoint by tools/convert_checkpoint.py'
)


# They are not built: some need arguments or packages, and none has a table.
NO_TABLE = (
    'AmusedScheduler',
    'CosineDPMSolverMultistepScheduler',
    'KarrasVeScheduler',
    'ScoreSdeVeScheduler',
    'ScoreSdeVpScheduler',
    'VQDiffusionScheduler',
)


def read_scheduler(folder: Path, schedule: dict | None = None) -> DDPMScheduler:
    """Read the schedule beside a prior, or build it, and check it.

    Args:
        folder: Of the network, or of the pipeline.
        schedule: Arguments of :func:`build_scheduler` that override those of the file.
            With a key of the table (``beta_schedule``, ...) the whole table of the file
            is replaced; everything else is replaced key by key.

    Raises:
        FileNotFoundError: If there is no file and no table is given: guessing one would
            be wrong silently.
        ValueError: If the schedule is not variance preserving, or cannot be read.
    """
    check_arguments(schedule)
    given = dict(schedule or {})
    if not any(key in given for key in TABLE_KEYS):
        scheduler = load_scheduler(folder)
        if given:
            scheduler = build_scheduler({**_arguments(scheduler), **given})
    else:
        file = find_scheduler_file(folder)
        kept = {} if file is None else _ddpm_arguments(read_json(file))
        kept = {key: kept[key] for key in kept if key not in TABLE_KEYS}
        scheduler = build_scheduler({**kept, **given})
    check_schedule(scheduler)
    return scheduler


def find_scheduler_file(folder: Path) -> Path | None:
    """Return the ``scheduler_config.json`` of a prior; ``None`` if there is none."""
    folder = folder.resolve()  # a link, or '.', lies elsewhere than it is named
    for place in (folder, folder / 'scheduler', folder.parent / 'scheduler'):
        if (place / 'scheduler_config.json').is_file():
            return place / 'scheduler_config.json'
    return None


def load_scheduler(folder: Path) -> DDPMScheduler:
    """Read the noise schedule that lies beside a prior.

    The class that the file names is built too: its table of alpha_bar is the one that
    the prior was trained with, and DDPM's must be equal.

    Raises:
        FileNotFoundError: If there is none: guessing one would be wrong silently.
        ValueError: If the schedule is not variance preserving, or cannot be read.
    """
    file = find_scheduler_file(folder)
    if file is None:
        raise FileNotFoundError(
            f'{folder} has no scheduler_config.json; give the noise schedule that the '
            "prior was trained with, as schedule=dict(beta_schedule='linear', "
            "prediction_type='epsilon')."
        )
    config = read_json(file)
    if config.get('predict_epsilon') is False:  # before diffusers 0.12
        config.setdefault('prediction_type', 'sample')
    original = build_original(config, file)
    table = original.alphas_cumprod.float()
    try:
        scheduler = DDPMScheduler.from_config(config)
        if _same_table(scheduler, table):
            return scheduler
    except NotImplementedError:
        pass  # DDPM has no such table under a name: it is given as numbers
    # Defaults of another class for keys that the file leaves out, or another formula.
    kept = {**_ddpm_arguments(dict(original.config)), **_ddpm_arguments(config)}
    kept = {key: kept[key] for key in kept if key not in TABLE_KEYS}
    scheduler = build_scheduler({**kept, 'trained_betas': betas_of(table).tolist()})
    if not _same_table(scheduler, table):
        raise ValueError(f'The noise schedule in {file} is not one of DDPM; {ADVICE}.')
    return scheduler


def build_original(config: dict, file: Path) -> diffusers.SchedulerMixin:
    """Build the scheduler that a file is of.

    Raises:
        ValueError: If it is not variance preserving, or cannot be built.
    """
    name = config.get('_class_name', 'DDPMScheduler').removeprefix('Flax')
    # Their names do not say so: timesteps are logarithms of noise levels, or flows.
    other_times = config.get('timestep_type') == 'continuous'
    if name in NO_TABLE or other_times or config.get('use_flow_sigmas'):
        raise _refusal(name, file)
    cls = getattr(diffusers, name, None) if name.endswith('Scheduler') else None
    if cls is None:
        raise ValueError(
            f'{file} is of {name}, which diffusers {diffusers.__version__} does not '
            f'have; {ADVICE}, or give the betas that it was trained with, as '
            "schedule=dict(beta_schedule='linear')."
        )
    try:
        original = cls.from_config(config)
    except Exception as error:  # of any type, by the class and by what it lacks
        raise ValueError(
            f'The noise schedule in {file} makes no {name} ({one_line(error)}); repair '
            "the file, or give the betas as schedule=dict(beta_schedule='linear')."
        ) from None
    if not isinstance(getattr(original, 'alphas_cumprod', None), Tensor):
        raise _refusal(name, file)
    return original


def _refusal(name: str, file: Path) -> ValueError:
    return ValueError(
        f'The noise schedule in {file} is of {name}, which is not variance preserving '
        f'in whole timesteps: features and samples would be wrong; {ADVICE}.'
    )


def betas_of(alphas_cumprod: Tensor) -> Tensor:
    """Return the betas, (T,) in double precision, that give a table of alpha_bar."""
    table = alphas_cumprod.double()
    return 1 - table / torch.cat([table.new_ones(1), table[:-1]])


def _same_table(scheduler: DDPMScheduler, table: Tensor) -> bool:
    given = scheduler.alphas_cumprod
    # Some classes keep the last alpha_bar of a zero terminal SNR just above zero.
    return given.shape == table.shape and torch.allclose(
        given, table, rtol=1e-4, atol=1e-7
    )


def _ddpm_arguments(config: dict) -> dict:
    """Return those entries of a scheduler's file that DDPM's scheduler takes."""
    known = DDPMScheduler().config
    return {k: v for k, v in config.items() if k in known and not k.startswith('_')}


def _arguments(scheduler: DDPMScheduler) -> dict:
    return _ddpm_arguments(dict(scheduler.config))
