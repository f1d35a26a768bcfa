"""Attacks by their names on the command line, and presets of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS

from mmdiff.attacks import Attack, TorchAttack
from mmdiff.attacks.objectives import REPORTED, check_objective
from mmdiff.attacks.oracle import task_of
from mmdiff.attacks.torch_names import name_on_command_line
from mmdiff.models import PurifiedModel
from mmdiff.registry import ATTACKS
from mmdiff.utils.configs import config_path

CLASSIFICATION = 'classification'
# In configs/_base_/attacks.
PRESETS = (
    'quick',
    'standard',
    'paper_ares',
    'paper_dag',
    'paper_oddefense',
    'paper_robust_pretrainers',
)
# Presets that are of models of one task.
TASK_OF_PRESET = {
    'paper_ares': 'detection',
    'paper_dag': 'detection',
    'paper_oddefense': 'detection',
    'paper_robust_pretrainers': CLASSIFICATION,
}
# Files of presets that are another one for classifiers.
OF_CLASSIFIERS = {'standard': 'standard_cls'}
ATTACK_NAMES: dict[str, dict[str, Any]] = {
    'pgd': {'type': 'PGD'},
    'dag': {'type': 'DAG'},
    'mim': {'type': 'MIM'},
    'apgd': {'type': 'APGD'},
    'square': {'type': 'Square'},
    'stadv': {'type': 'StAdv'},
    'random_noise': {'type': 'RandomNoise'},
    'noise': {'type': 'RandomNoise'},  # for short
    'vanishing': {'type': 'APGD', 'objective': 'vanishing'},
    'fabrication': {'type': 'APGD', 'objective': 'fabrication'},
    'mislabel': {'type': 'APGD', 'objective': 'mislabel'},
    'cwa': {'type': 'APGD', 'objective': 'cwa'},
    **{
        name: {'type': 'APGD', 'objective': name, 'proposals': 'moving'}
        for name in REPORTED
    },
    'transfer': {'type': 'MIM', 'source': ''},
    'universal': {'type': 'Universal'},
}


def attack_configs(
    names: str,
    eps: str | None = None,
    steps: int | None = None,
    task: str | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Configs of the attacks that a command line names, each built once to check it.

    Args:
        names: ``'pgd,dag'``, or a preset: ``quick``, ``standard``, ``paper_ares``, ...
        eps: ``'2,4,8'``, in pixel units: every attack at every one of them; of attacks
            that displace pixels (``stadv``), how far, and then all are to be such.
            ``None`` is that of a preset, no budget (as published) for DAG, 1 for
            ``stadv`` and 8 for all others.
        steps: Steps of every attack that has steps; ``None`` is its own default.
        task: Task of the model that is attacked (:func:`task_of_config`):
            ``standard`` is another one on classifiers. ``None``: detection, or any.
        **options: Further settings, each of all attacks that have it; ``source`` is
            ``transfer``'s only; ``mask.type`` is the ``type`` of a setting ``mask``.

    Raises:
        ValueError: For an unknown attack or objective, a preset of another task, a
            number that is none, or settings that no attack has.

    Example:
        >>> [attack['eps'] for attack in attack_configs('pgd', '2,4')]
        [2.0, 4.0]
    """
    budgets = _budgets(eps)
    _check_presets(names, task)
    nested = Config()
    nested.merge_from_dict(options)
    settings = nested.to_dict()
    if steps is not None:
        settings['steps'] = steps
    configs, built, taken = [], [], set()
    _check_objective(settings.get('objective'), task)
    for attack in _chosen(names, task):
        has = _settings_of(attack)
        matching = {k: v for k, v in settings.items() if k in has}
        taken |= set(matching)
        for budget in budgets:
            config = {**attack, **matching}
            if budget is not None:
                config['eps'] = budget
            built.append(_build(config))
            configs.append(config)
    if eps is not None:
        _check_one_unit(names, eps, built)
    _check_taken(names, settings, taken)
    return configs


def task_of_config(cfg: Config) -> str | None:
    """Task of the model of a config; ``None`` if it has none, or of an unknown type.

    The model is not built. Behind a shield, it is that of the model in it.
    """
    model = cfg.get('model', {})
    kind = _class_of(model, cfg)
    while isinstance(kind, type) and issubclass(kind, PurifiedModel):
        model = model.get('model', {})
        kind = _class_of(model, cfg)
    return task_of(kind) if isinstance(kind, type) else None


def _class_of(model: Any, cfg: Config) -> type | None:
    """Class of a model's config; ``None`` if nobody knows it."""
    kind = model.get('type') if isinstance(model, Mapping) else type(model)
    if isinstance(kind, str):
        scope = cfg.get('default_scope', 'mmdet')
        with MODELS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    return kind


def has_preset(names: str) -> bool:
    """Whether a preset is named: it leaves out what does not apply to a model."""
    return not {*PRESETS}.isdisjoint(names.split(','))


def protocol_of(names: str) -> str:
    """``'paper'`` for presets of that name, else ``'adaptive'``.

    Raises:
        ValueError: If both are named.
    """
    published = [name.startswith('paper_') for name in names.split(',')]
    if any(published) and not all(published):
        raise ValueError(
            f'{names!r} mixes attacks as published with others; run paper_* by itself.'
        )
    return 'paper' if all(published) else 'adaptive'


def _budgets(eps: str | None) -> list[float] | list[None]:
    try:
        return [float(e) for e in eps.split(',')] if eps else [None]
    except ValueError:
        raise ValueError(
            f'eps={eps!r} must be numbers in pixel units with commas between: 2,4,8.'
        ) from None


def _check_presets(names: str, task: str | None) -> None:
    """Complain about a preset of models of another task."""
    for name in names.split(','):
        of = TASK_OF_PRESET.get(name, task)
        if task is not None and of != task:
            fitting = [p for p in PRESETS if TASK_OF_PRESET.get(p, task) == task]
            raise ValueError(
                f'The preset {name} is for {of} and the model is for {task}; choose '
                f'one of {", ".join(fitting)}.'
            )


def _chosen(names: str, task: str | None) -> list[dict[str, Any]]:
    """Configs by name, their types by full name whatever scope the model is of."""
    chosen: list[Mapping[str, Any]] = []
    for name in names.split(','):
        if name in PRESETS:
            file = OF_CLASSIFIERS.get(name, name) if task == CLASSIFICATION else name
            preset = Config.fromfile(config_path(f'_base_/attacks/{file}.py'))
            chosen += preset.robust_test_cfg.attacks
        elif name in ATTACK_NAMES:
            chosen.append(ATTACK_NAMES[name])
        elif (theirs := name_on_command_line(name)) is not None:
            chosen.append({'type': 'TorchAttack', 'name': theirs})
        else:
            known = ', '.join((*ATTACK_NAMES, *PRESETS, 'torch_NAME'))
            raise ValueError(f'There is no attack {name!r}; choose from {known}.')
    configs = []
    for attack in chosen:
        kind = attack['type'].removeprefix('mmdiff.')
        configs.append({**attack, 'type': f'mmdiff.{kind}'})
    return configs


def _check_objective(objective: Any, task: str | None) -> None:
    """Complain about an objective that models of a task do not have."""
    if isinstance(objective, str):
        check_objective(objective, task)


def _settings_of(attack: Mapping[str, Any]) -> set[str]:
    """Names of an attack's settings that a command line may set."""
    kind = ATTACKS.get(attack['type'])
    if issubclass(kind, TorchAttack):
        return kind.takes(attack['name'])
    names = {field.name for field in fields(kind)}
    return names if 'source' in attack else names - {'source'}


def _build(config: Mapping[str, Any]) -> Attack:
    """Build an attack, so that a mistake is told now.

    Raises:
        ValueError: If it cannot be built.
    """
    if config.get('source') == '':
        raise ValueError(
            "The attack transfer needs another model: source='CONFIG,CKPT' in "
            '--attack-options.'
        )
    try:
        return ATTACKS.build(dict(config))
    except TypeError as error:
        raise ValueError(f'{config["type"]}: {error}.') from None


def _check_one_unit(names: str, eps: str, attacks: Sequence[Attack]) -> None:
    """Complain about numbers that are of two units at once.

    Raises:
        ValueError: If some attacks displace pixels and others change their values.
    """
    if len({attack.budget.is_flow for attack in attacks}) > 1:
        raise ValueError(
            f'eps={eps} would be pixels of displacement for some of {names!r} and '
            'pixel values (of 255) for others; run them one by one, or leave eps out '
            '(random_noise displaces with norm=flow in --attack-options).'
        )


def _check_taken(
    names: str, options: Mapping[str, Any], taken: Sequence[str] | set[str]
) -> None:
    unknown = [name for name in options if name not in taken]
    if 'source' in unknown:
        raise ValueError('source=CONFIG,CKPT belongs to the attack transfer; add it.')
    if unknown:
        raise ValueError(f'No attack of {names!r} takes the argument {unknown[0]!r}.')
