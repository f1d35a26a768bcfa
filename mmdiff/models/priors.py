"""What components of mm models ask of a prior: loading, its time, its classes."""

from numbers import Integral
from pathlib import Path

from mmdiff.diffusion import DiffusionModel


def prior_arguments(model: str | Path | dict) -> dict:
    """Arguments of ``DiffusionModel.from_pretrained``, of how a config names a prior.

    Args:
        model: A prior (``mmdiff::NAME``, folder, hub id, or a ``UNet2DModel`` config
            for random weights), or these arguments themselves, with ``source``.

    Example:
        >>> prior_arguments('mmdiff::toy_voc')
        {'source': 'mmdiff::toy_voc'}
    """
    if isinstance(model, dict) and 'source' in model:
        return dict(model)
    return {'source': model}


def chosen_time(
    prior: DiffusionModel, owner: str, timestep: int | None, sigma: float | None
) -> int | float:
    """Return the one of timestep and sigma that a prior has.

    Args:
        prior: The prior.
        owner: Name of what was given them, for messages.
        timestep: DDPM timestep, for a prior trained with timesteps.
        sigma: Noise level, for a prior trained with sigmas (EDM).

    Raises:
        ValueError: If anything is given but the one that it has, or it is out of range.
    """
    unit, (low, high) = prior.time_unit, prior.time_range
    given = {'timestep': timestep, 'sigma': sigma}
    time = given.pop(unit)
    (other, superfluous) = given.popitem()
    advice = f'this prior counts {unit}s: give {unit}, {low} to {high}'
    if superfluous is not None:
        both = f'{unit}={time} and ' if time is not None else ''
        raise ValueError(f'{owner} got {both}{other}={superfluous}; {advice}, alone.')
    if time is None:
        raise ValueError(f'{owner} got neither timestep nor sigma; {advice}.')
    prior.check_time(time)
    return float(time) if unit == 'sigma' else int(time)


def check_condition(prior: DiffusionModel, condition: int | None) -> None:
    """Complain about a class that a prior does not have, or about none.

    Raises:
        ValueError: If so.
    """
    if condition is None:
        prior.check_condition()
        return
    if isinstance(condition, bool) or not isinstance(condition, Integral):
        raise ValueError(f'condition={condition!r} is no class; give a whole number.')
    prior.check_condition(int(condition))
