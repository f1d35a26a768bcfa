"""Names of objectives by task, so that a mistyped one is refused before any work."""

from collections.abc import Mapping
from typing import Any

# Objectives on what a detector reports at test time, by the settings of their class.
REPORTED: dict[str, dict[str, Any]] = {
    'detections': {'type': 'Detections'},
    'detections_fabrication': {'type': 'Detections', 'false_alarms': 1.0},
    'margin': {'type': 'Margin'},
    'targeted': {'type': 'Targeted'},
}
# Objectives on the logits of a classifier, likewise.
ON_LOGITS: dict[str, dict[str, Any]] = {
    'dlr': {'type': 'DLR'},
    'dlr_targeted': {'type': 'DLRTargeted'},
    'cw': {'type': 'LogitMargin'},
    'kl': {'type': 'KLDivergence'},
}
# An objective of either, less the denoising error of the image.
PENALISED: dict[str, dict[str, Any]] = {'lagrange': {'type': 'Lagrange'}}
BUILT = {**REPORTED, **ON_LOGITS, **PENALISED}
NAMES = {
    'detection': (
        'total',
        'cls',
        'reg',
        'cwa',
        'untargeted',
        'vanishing',
        'fabrication',
        'mislabel',
        *REPORTED,
        *PENALISED,
    ),
    'classification': ('total', 'ce', *ON_LOGITS, *PENALISED),
}
# Objectives at whose height an AP may be as it was: it compares scores with each other,
# all of them low, or allows for boxes that are off.
LOWERS_NO_AP = ('vanishing', 'fabrication', 'reg')


def objective_names() -> tuple[str, ...]:
    """Return the names of the objectives of all tasks, each once."""
    return tuple(dict.fromkeys(name for names in NAMES.values() for name in names))


def check_objective(name: str, task: str | None = None) -> None:
    """Complain about a name that no objective has.

    Args:
        name: The name.
        task: Task whose objectives there are; ``None``: those of any.

    Raises:
        ValueError: If there is none of that name.
    """
    if task is None and name not in objective_names():
        known = ' or '.join(f'of {of}: {", ".join(NAMES[of])}' for of in NAMES)
        raise ValueError(f'objective={name!r} is unknown; choose one {known}.')
    if task is not None and name not in NAMES[task]:
        raise ValueError(
            f'objective={name!r} is none of {task}; choose one of {NAMES[task]}.'
        )


def objective_name(objective: str | Mapping[str, Any]) -> str:
    """Name of an objective in reports: of a config, its type and its settings.

    Example:
        >>> objective_name({'type': 'MyObjective', 'weight': 2})
        'MyObjective_weight2'
    """
    if isinstance(objective, str):
        return objective
    settings = [f'{k}{v}' for k, v in objective.items() if k != 'type']
    return '_'.join([objective['type'].removeprefix('mmdiff.'), *settings])


def inner_objective(objective: str | Mapping[str, Any]) -> str | Mapping[str, Any]:
    """Return what is asked of a model itself: of ``lagrange``, its inner objective.

    Example:
        >>> inner_objective({'type': 'Lagrange', 'inner': 'cw', 'multiplier': 10})
        'cw'
        >>> inner_objective('lagrange'), inner_objective('dlr')
        ('total', 'dlr')
    """
    config = PENALISED.get(objective, {}) if isinstance(objective, str) else objective
    if config.get('type', '').removeprefix('mmdiff.') != 'Lagrange':
        return objective
    return config.get('inner', 'total')


def build_objective(objective: str | Mapping[str, Any]) -> Any:
    """Build an objective of ``mmdiff.OBJECTIVES``, by its config or name.

    Raises:
        ValueError: If there is none of that type, or if it does not take the settings.
    """
    from mmdiff.registry import OBJECTIVES

    config = BUILT[objective] if isinstance(objective, str) else dict(objective)
    try:
        return OBJECTIVES.build({**config, '_scope_': 'mmdiff'})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'objective={objective} cannot be built: {error}') from None
