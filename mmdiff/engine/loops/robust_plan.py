"""What a robust test is to run, and how the report calls it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmdiff.attacks import Attack, RandomNoise, Square
from mmdiff.evaluation.sanity import variant
from mmdiff.registry import ATTACKS


@dataclass
class Unit:
    """One run, clean or under one attack, over the first ``images`` images."""

    name: str
    attack: Attack | None
    images: int

    @property
    def weight(self) -> int:
        """Passes through the model per image, about; a gradient counts three."""
        steps = getattr(self.attack, 'steps', 0) * getattr(self.attack, 'eot', 1)
        return 2 + steps * (1 if isinstance(self.attack, Square) else 3)


def build_attacks(attacks: Sequence[dict | Attack]) -> list[Attack]:
    """Attacks of their configs, one for each of a list of ``eps``."""
    built = []
    for attack in attacks:
        if isinstance(attack, Attack):
            built.append(attack)
            continue
        budgets = attack.get('eps')
        many = isinstance(budgets, list | tuple)
        configs = [{**attack, 'eps': eps} for eps in budgets] if many else [attack]
        built += [ATTACKS.build({**config, '_scope_': 'mmdiff'}) for config in configs]
    return built


def make_entries(attacks: Sequence[Attack]) -> Iterator[dict]:
    """What the report says of each attack, whatever it finds."""
    names = []
    for attack in attacks:
        entry = attack.threat_model()
        role = 'control' if isinstance(attack, RandomNoise) else 'attack'
        name = 'noise' if role == 'control' else entry['attack']
        parts = name, entry.get('inner'), entry.get('objective')
        label = '_'.join(filter(None, parts))
        names.append((label, budget_of(entry)))
        if (number := names.count(names[-1])) > 1:  # with other settings
            label = f'{label}_{number}'
        entry |= dict(attack=name, label=label, role=role, reasons=[])
        yield dict(entry, key=key_of(entry))


def budget_of(entry: dict) -> tuple:
    return entry['norm'], entry['eps']


def size_of(entry: dict) -> float:
    """Of the budget; infinite without one."""
    return math.inf if entry['eps'] is None else entry['eps']


def is_inside(entry: dict, other: dict) -> bool:
    """Whether what the first may do, the other may do as well."""
    return entry['norm'] == other['norm'] and size_of(entry) <= size_of(other)


def key_of(entry: dict) -> str:
    """Prefix of an entry's metrics."""
    norm = '' if entry['norm'] == 'linf' else f'_{entry["norm"]}'
    where = '' if entry['eps'] is None else f'_eps{entry["eps"]:g}'
    return f'{entry["label"]}{norm}{where}'


def make_units(entry: dict, attack: Attack, images: int) -> list[Unit]:
    """The restarts of an attack one by one: they find the same images as at once."""
    count, key = getattr(attack, 'restarts', 1), entry['key']
    if count == 1:
        return [Unit(key, attack, images)]
    offset = attack.restart_offset
    return [
        Unit(
            f'{key} restart {k}',
            variant(attack, restarts=1, restart_offset=offset + k),
            images,
        )
        for k in range(count)
    ]
