"""What a robust test is to run, in which order, and how the report calls it.

Nothing is run here, and no model is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from mmdiff.attacks import (
    Attack,
    GradientAttack,
    IterativeAttack,
    RandomNoise,
    Square,
)
from mmdiff.attacks.objectives import (
    LOWERS_NO_AP,
    inner_objective,
    objective_name,
)
from mmdiff.evaluation.entry import Entry, Role
from mmdiff.registry import ATTACKS

# Change of every value (of 255) at which an image has nothing that a model could need.
LARGE = 64
# A gradient costs about three passes: black-box search gets as much time.
QUERIES_PER_STEP = 3


@dataclass
class Run:
    """One run, clean or under one attack, over the first images of the test set.

    Args:
        name: Name in the log; with the position of a batch it seeds what a randomised
            model draws.
        attack: The attack; ``None``: clean.
        num_images: Number of images.
        of_row: Whether a row of the report counts it; else it is behind a check.
        evaluations: How often the model answers, each time with other seeds.
        seeded_as: Name of the run whose draws it repeats; empty: its own.

    Example:
        >>> from mmdiff.attacks import PGD
        >>> Run('pgd', PGD(steps=10), 100).weight
        32
    """

    name: str
    attack: Attack | None
    num_images: int
    of_row: bool = False
    evaluations: int = 1
    seeded_as: str = ''

    @property
    def weight(self) -> int:
        """Passes through the model per image, about; a gradient counts three."""
        steps = getattr(self.attack, 'steps', None) or 0
        steps *= getattr(self.attack, 'eot', None) or 1
        passes = 1 + self.evaluations
        return passes + steps * (1 if isinstance(self.attack, Square) else 3)


@dataclass
class Step:
    """One attack at one budget: a row of the report.

    Args:
        attack: The attack.
        entry: Its row, to be filled.
        runs: Its restarts one by one: they find the same images as at once.
    """

    attack: Attack
    entry: Entry
    runs: list[Run]

    @property
    def sees_gradients(self) -> bool:
        """Whether it follows gradients of the model under test."""
        return isinstance(self.attack, GradientAttack) and self.attack.source is None


@dataclass
class RobustPlan:
    """All runs of a robust test.

    Args:
        attacks: Attacks, in the order of the report.
        num_images: Images of the test set.
        num_checked: First images, on which the runs behind the checks are.
        num_values: Pixel values of an image, for the size of an L2 budget.
        skip_fooled: Whether attacks skip images that earlier ones brought to score 0.
        evaluations: Evaluations of each row, of what its attack left once.

    Example:
        >>> from mmdiff.attacks import PGD
        >>> plan = RobustPlan([PGD(eps=8), PGD(eps=2)], 100, 16, 3 * 320 * 320)
        >>> [run.name for run in plan.runs][:4]
        ['clean', 'again', 'pgd_total_eps2', 'pgd_total_eps8']
        >>> plan.checked.entry.key, list(plan.controls)
        ('pgd_total_eps8', ['random_noise', 'longer', 'large', 'square'])
    """

    attacks: Sequence[Attack]
    num_images: int
    num_checked: int
    num_values: int
    skip_fooled: bool = False
    evaluations: int = 1

    def __post_init__(self) -> None:
        self.in_order = make_steps(self.attacks, self.num_images)
        # Small budgets first, and those with a mask: what they find is within the
        # larger ones, and those without, too.
        self.steps = sorted(self.in_order, key=_room)
        self.clean = Run('clean', None, self.num_images, of_row=True)
        self.again = Run('again', None, self.num_checked)
        self.repeat = None
        if self.evaluations > 1:  # else no seeds are recorded
            self.repeat = Run('repeat', None, self.num_checked, seeded_as='clean')
        self.checked = self._choose_checked()
        self.controls = self._plan_controls()
        for run in (self.clean, *self._attacks):
            run.evaluations = self.evaluations

    @property
    def _attacks(self) -> list[Run]:
        return [run for step in self.steps for run in step.runs]

    @property
    def runs(self) -> list[Run]:
        """All runs, in order."""
        before = [run for run in (self.clean, self.again, self.repeat) if run]
        return [*before, *self._attacks, *self.controls.values()]

    def ends_budget(self, step: Step) -> bool:
        """Whether no attack of the step's budget comes after it."""
        budget = step.entry.budget
        same = [other for other in self.steps if other.entry.budget == budget]
        return same[-1] is step

    def _choose_checked(self) -> Step | None:
        """The attack to compare with controls: one along gradients, if there is one.

        It is the first one of those, at its largest budget, and one without a mask if
        there is one: a large change of all pixels hides everything.
        """
        steps = [s for s in self.steps if s.entry.role == 'attack' and s.attack.eps]
        if not steps:
            return None
        seeing = [step for step in steps if step.sees_gradients]
        whole = (step for step in seeing if step.attack.mask is None)
        first = next(whole, (seeing or steps)[0])
        same = [step for step in steps if step.entry.label == first.entry.label]
        return max(same, key=lambda step: step.attack.eps)

    def _plan_controls(self) -> dict[str, Run]:
        if self.checked is None:
            return {}
        attacks = controls(self.checked.attack, self.num_values)
        if self.skip_fooled:  # to compare with, it must have run in full
            attacks['attacked'] = self.checked.attack
        runs = {}
        for name, attack in attacks.items():
            runs[name] = Run(f'control {name}', attack, self.num_checked)
        return runs


def _room(step: Step) -> tuple[float, bool]:
    """Sorts steps by how much they may do."""
    budget = step.entry.budget
    return budget.radius, not budget.mask


def build_attacks(attacks: Sequence[Mapping[str, Any] | Attack]) -> list[Attack]:
    """Build attacks from their configs, one for each of a list of ``eps``."""
    built = []
    for attack in attacks:
        if isinstance(attack, Attack):
            built.append(attack)
            continue
        eps = attack.get('eps')
        budgets = eps if isinstance(eps, list | tuple) else [eps]
        for budget in budgets:
            config = {**attack, '_scope_': 'mmdiff'}
            if 'eps' in attack:
                config['eps'] = budget
            built.append(ATTACKS.build(config))
    return built


def make_steps(attacks: Sequence[Attack], num_images: int) -> list[Step]:
    """Rows and runs of attacks; rows of the same label and budget get numbers."""
    steps: list[Step] = []
    labels: list[str] = []
    for attack in attacks:
        entry = make_entry(attack)
        labels.append(entry.key)
        if (count := labels.count(entry.key)) > 1:  # with other settings
            entry.label = f'{entry.label}_{count}'
        steps.append(Step(attack, entry, split_restarts(attack, entry.key, num_images)))
    return steps


def make_entry(attack: Attack) -> Entry:
    """What the report says of an attack, whatever it finds."""
    settings = attack.threat_model()
    kind = settings.pop('attack')
    for name in ('eps', 'norm', 'mask'):
        del settings[name]
    parts = [kind]
    if settings.get('source') is not None:
        parts.insert(0, 'transfer')
    if settings.get('objective'):
        parts.append(objective_name(settings['objective']))
    role: Role = 'control' if isinstance(attack, RandomNoise) else 'attack'
    label = '_'.join(parts) + attack.budget.place
    return Entry(kind, label, role, attack.budget, settings)


def split_restarts(attack: Attack, name: str, num_images: int) -> list[Run]:
    """One run for each restart of an attack."""
    count = getattr(attack, 'restarts', 1)
    if count == 1:
        return [Run(name, attack, num_images, of_row=True)]
    runs = []
    for number in range(count):
        offset = attack.restart_offset + number
        one = replace(attack, restarts=1, restart_offset=offset)
        label = f'{name} restart {number}'
        runs.append(Run(label, one, num_images, of_row=True))
    return runs


def with_settings(attack: Attack, **changes: Any) -> Attack:
    """Copy an attack with other settings, those of ``changes`` that it has."""
    names = {field.name for field in fields(attack)}
    return replace(attack, **{k: v for k, v in changes.items() if k in names})


def controls(attack: Attack, num_values: int) -> dict[str, Attack]:
    """Attacks that one with a budget is compared with, by name.

    Args:
        attack: The attack to check. Gradient attacks get all controls, attacks from
            another model and those without steps only ``random_noise``, others, and
            those that displace pixels, ``random_noise`` and ``longer``.
        num_values: Pixel values of an image, for the size of an L2 budget.

    Example:
        >>> from mmdiff.attacks import PGD
        >>> made = controls(PGD(eps=8, objective='vanishing'), 3 * 320 * 320)
        >>> {name: (attack.eps, attack.objective) for name, attack in made.items()
        ...     if name in ('longer', 'large')}
        {'longer': (8, 'vanishing'), 'large': (64, 'total')}
    """
    names = ('norm', 'quantize', 'mask', 'seed')
    alike = {name: getattr(attack, name) for name in names}
    made: dict[str, Attack] = {'random_noise': RandomNoise(attack.eps, **alike)}
    if getattr(attack, 'source', None) is not None:
        return made  # more steps fit the source, not the victim
    # A universal perturbation is only added; others of torchattacks have none.
    if getattr(attack, 'steps', None) is None:
        return made
    # Twice the steps; ten more if there are fewer, to find those that are too few.
    steps = attack.steps + max(10, attack.steps)
    size = getattr(attack, 'step_size', None)
    constant = size is not None and 'step_size' in {f.name for f in fields(attack)}
    longer = with_settings(attack, steps=steps, restarts=1)
    if attack.budget.is_flow and constant:
        longer = replace(longer, step_size=min(size, 2.5 * attack.eps / steps))
    # Of displacements none is known to hide everything, and no search without gradients
    # has such a budget.
    if not isinstance(attack, GradientAttack) or attack.budget.is_flow:
        return {**made, 'longer': longer}
    large = max(attack.eps, LARGE * (1 if attack.norm == 'linf' else num_values**0.5))
    # What keeps images likely keeps them from being destroyed, too.
    inner = inner_objective(attack.objective)
    larger = replace(longer, eps=large, objective=inner)
    if objective_name(inner) in LOWERS_NO_AP:
        larger = replace(larger, objective='total')
    if constant:  # else the attack itself sees to its steps
        longer = replace(longer, step_size=min(size, 2.5 * attack.eps / steps))
        larger = replace(larger, step_size=2.5 * large / steps)
    made.update(longer=longer, large=larger, square=_square(attack, alike))
    return made


def _square(attack: IterativeAttack, alike: Mapping[str, Any]) -> Square:
    """Black-box search for the same objective, for the same time."""
    return Square(
        attack.eps,
        steps=QUERIES_PER_STEP * attack.steps,
        objective=attack.objective,
        eot=attack.eot,
        proposals=attack.proposals,
        **alike,
    )
