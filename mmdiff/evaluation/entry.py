"""A row of ``robustness.json``: one attack at one budget, and what it left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from mmdiff.attacks import Budget

from .account import Broke, Cost, Flag, Sanity
from .evaluations import Evaluations
from .reading import ends, known, numbers

Role = Literal['clean', 'attack', 'control', 'worst_case']
ROLES: tuple[str, ...] = get_args(Role)
# Ends of the names of metrics to compare models by, the first one that there is.
MAIN_METRICS = ('/mAP', '/bbox_mAP', '/top1')
# What metric_items of CocoMetric may leave of it: not AP of one class, nor recall.
PARTS_OF_MAP = '/bbox_mAP_'
# Metrics that are in percent; all others are shares.
PERCENT = '/top1'


def main_metric_name(metrics: Mapping[str, float]) -> str:
    """Name of the metric to compare by: mAP (VOC, COCO), top-1, or the first one.

    Example:
        >>> main_metric_name({'coco/bbox_mAP_50': 0.6, 'coco/bbox_mAP': 0.4})
        'coco/bbox_mAP'
        >>> main_metric_name({'coco/cat_precision': 0.6, 'coco/bbox_mAP_50': 0.4})
        'coco/bbox_mAP_50'
    """
    main = [name for name in metrics if name.endswith(MAIN_METRICS)]
    parts = [name for name in metrics if PARTS_OF_MAP in name]
    return next(iter([*main, *parts, *metrics]))


def main_metric(metrics: Mapping[str, float]) -> float:
    """Value of the metric to compare by, as a share: 0..1 for mAP and accuracy."""
    name = main_metric_name(metrics)
    return metrics[name] / 100 if name.endswith(PERCENT) else metrics[name]


@dataclass
class Entry:
    """A row: clean, under one attack at one budget, or the worst case of several.

    Args:
        attack: Kind of attack: ``'pgd'``; ``'clean'`` and ``'worst_case'``.
        label: Name in tables: ``'pgd_total'``; under a mask ``'pgd_total_boxes'``.
        role: ``'clean'``, ``'attack'``, ``'control'`` (an attack must surpass it) or
            ``'worst_case'``.
        budget: Where the attack had to stay; ``None`` for the clean row.
        settings: All further settings of the attack, as its threat model names them.
        num_images: Images measured.
        metrics: Metrics by the evaluator's names.
        image_score: Mean over images of what the task measures on one image, in 0..1:
            AP at IoU 0.5, or whether the class is right.
        per_class: AP or accuracy by class.
        cost: What it cost.
        sanity: What the attack did; ``None`` for rows without one.
        flags: Reasons not to believe the row.
        cumulative: Whether images that earlier rows had brought to 0 are counted as
            those left them.
        metrics_worst_restart: Metrics where of each image the restart of lowest score
            counts; ``None`` without restarts.
        members: Keys of the rows that a worst case is made of.
        image_scores: What each image is worth, (N,); of a worst case, its lowest.
        interval: Interval of the main metric over draws of the images.
        kept_interval: Interval of its share of the clean one.
        chosen: For each image of a worst case, the run that is counted.
        chosen_by: What that choice is by: ``'metric'``, the main metric itself, or
            ``'score'``, the score of each image.
        broke: What became of the objects; ``None`` where nobody looked.
        upper_bound: Whether the row counts images that were not attacked by all that
            it names: more attacks could leave less.
        metrics_after_rounding: Metrics on the images in whole pixel values, as files of
            8 bits hold them, within the budget; ``None`` if nobody measured them.
        evaluations: The single evaluations of a model that draws, of which all that the
            row measures is the mean; ``None`` if there was one.

    Example:
        >>> entry = Entry('pgd', 'pgd_total', 'attack', Budget(4), {'steps': 10})
        >>> entry.key, entry.name
        ('pgd_total_eps4', 'pgd_total at eps=4')
    """

    attack: str
    label: str
    role: Role
    budget: Budget | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    num_images: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    image_score: float | None = None
    per_class: dict[str, float] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    sanity: Sanity | None = None
    flags: list[Flag] = field(default_factory=list)
    cumulative: bool = False
    metrics_worst_restart: dict[str, float] | None = None
    members: list[str] = field(default_factory=list)
    image_scores: list[float] = field(default_factory=list)
    interval: tuple[float, float] | None = None
    kept_interval: tuple[float, float] | None = None
    chosen: list[str] = field(default_factory=list)
    chosen_by: str = ''
    broke: Broke | None = None
    upper_bound: bool = False
    metrics_after_rounding: dict[str, float] | None = None
    evaluations: Evaluations | None = None

    @classmethod
    def clean(cls) -> Entry:
        """The row without an attack."""
        return cls('clean', 'clean', 'clean')

    @classmethod
    def worst_case(cls, budget: Budget, members: list[str]) -> Entry:
        """The row of the worst that its members do together."""
        label = f'worst_case{budget.place}'
        return cls('worst_case', label, 'worst_case', budget, members=members)

    @property
    def key(self) -> str:
        """Prefix of the row's metrics: ``'pgd_total_eps4'``."""
        return self.label + ('' if self.budget is None else self.budget.suffix)

    @property
    def name(self) -> str:
        """How sentences call the row: ``'pgd_total at eps=4'``."""
        if self.budget is None:
            return self.label
        if self.budget.eps is None:
            return f'{self.label} at no budget'
        return f'{self.label} at eps={self.budget.eps:g}'

    @property
    def eps(self) -> float | None:
        """Radius of the budget in pixel units; ``None`` if there is none."""
        return None if self.budget is None else self.budget.eps

    @property
    def norm(self) -> str | None:
        """Norm of the budget; ``None`` for the clean row."""
        return None if self.budget is None else self.budget.norm

    @property
    def where(self) -> str:
        """Budget as tables show it: ``'Linf 8, mask boxes, uint8'``, ``'Linf 8'``.

        It is empty for the clean row.
        """
        if self.budget is None:
            return ''
        return f'{self.budget}, uint8' if self.quantize else str(self.budget)

    @property
    def steps(self) -> int | None:
        return self.settings.get('steps')

    @property
    def restarts(self) -> int | None:
        return self.settings.get('restarts')

    @property
    def eot(self) -> int | None:
        return self.settings.get('eot')

    @property
    def quantize(self) -> bool:
        return bool(self.settings.get('quantize'))

    @property
    def metric(self) -> str:
        """Name of the metric to compare by."""
        return main_metric_name(self.metrics)

    @property
    def value(self) -> float:
        """Main metric, 0..1."""
        return main_metric(self.metrics)

    @property
    def worst_restart(self) -> float | None:
        """Main metric where of each image the worst restart counts."""
        if self.metrics_worst_restart is None:
            return None
        return main_metric(self.metrics_worst_restart)

    @property
    def after_rounding(self) -> float | None:
        """Main metric on images in whole pixel values; ``None`` if not measured."""
        if self.metrics_after_rounding is None:
            return None
        return main_metric(self.metrics_after_rounding)

    @property
    def reasons(self) -> list[str]:
        """Sentences of the flags."""
        return [flag.text for flag in self.flags]

    def to_json(self) -> dict[str, Any]:
        """What ``robustness.json`` says of the row."""
        raw: dict[str, Any] = {
            'attack': self.attack,
            'label': self.label,
            'role': self.role,
            'key': self.key,
        }
        if self.budget is not None:
            raw.update(norm=self.norm, eps=self.eps)
            if self.budget.mask:
                raw['mask'] = self.budget.mask
        raw.update(self.settings)
        if self.role in ('attack', 'control'):
            raw['cumulative'] = self.cumulative
        if self.members:
            raw['members'] = self.members
        if self.role != 'clean':
            raw['upper_bound'] = self.upper_bound
        raw.update(self._measured())
        raw['per_class'] = self.per_class
        if self.broke is not None:
            raw['broke'] = asdict(self.broke)
        raw['cost'] = asdict(self.cost)
        if self.sanity is not None:
            raw['sanity'] = asdict(self.sanity)
        if self.chosen:
            raw['chosen'] = self.chosen
        if self.chosen_by:
            raw['chosen_by'] = self.chosen_by
        raw['flags'] = [asdict(flag) for flag in self.flags]
        raw['reasons'] = self.reasons
        return raw

    def _measured(self) -> dict[str, Any]:
        """What was measured over the images, and of each of them."""
        raw: dict[str, Any] = {'num_images': self.num_images, 'metrics': self.metrics}
        if self.evaluations is not None:
            raw['evaluations'] = self.evaluations.to_json()
        if self.metrics_worst_restart is not None:
            raw['metrics_worst_restart'] = self.metrics_worst_restart
        if self.metrics_after_rounding is not None:
            raw['metrics_after_rounding'] = self.metrics_after_rounding
        if self.interval is not None:
            raw['interval'] = list(self.interval)
        if self.kept_interval is not None:
            raw['kept_interval'] = list(self.kept_interval)
        raw['image_score'] = self.image_score
        if self.image_scores:
            raw['image_scores'] = [round(score, 5) for score in self.image_scores]
        return raw

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Entry:
        """Read a row of schema 3.

        Raises:
            KeyError, TypeError, ValueError: If it is damaged.
        """
        if raw['role'] not in ROLES:
            raise ValueError(f'{raw["attack"]} has the role {raw["role"]}')
        budget = None
        if 'norm' in raw:
            budget = Budget(raw['eps'], raw['norm'], str(raw.get('mask', '')))
        if (budget is None) != (raw['role'] == 'clean'):
            raise ValueError(f'{raw["attack"]} is {raw["role"]} with {budget}')
        worst = raw.get('metrics_worst_restart')
        rounded = raw.get('metrics_after_rounding')
        sanity = raw.get('sanity')
        score, broke = raw.get('image_score'), raw.get('broke')
        several = raw.get('evaluations')
        return cls(
            attack=str(raw['attack']),
            label=str(raw['label']),
            role=raw['role'],
            budget=budget,
            settings={k: v for k, v in raw.items() if k not in _NO_SETTINGS},
            num_images=int(raw['num_images']),
            metrics=numbers(raw['metrics']),
            image_score=None if score is None else float(score),
            per_class=numbers(raw.get('per_class') or {}),
            cost=known(Cost, raw['cost']),
            sanity=None if sanity is None else Sanity.from_json(sanity),
            flags=[Flag(str(f['code']), str(f['text'])) for f in raw['flags']],
            cumulative=bool(raw.get('cumulative')),
            metrics_worst_restart=None if worst is None else numbers(worst),
            members=list(raw.get('members', ())),
            image_scores=[float(score) for score in raw.get('image_scores') or ()],
            interval=ends(raw.get('interval')),
            kept_interval=ends(raw.get('kept_interval')),
            chosen=[str(run) for run in raw.get('chosen') or ()],
            chosen_by=str(raw.get('chosen_by', '')),
            broke=None if broke is None else Broke.from_json(broke),
            upper_bound=bool(raw.get('upper_bound')),
            metrics_after_rounding=None if rounded is None else numbers(rounded),
            evaluations=None if several is None else Evaluations.from_json(several),
        )


# Keys of a row that are no setting of its attack.
_NO_SETTINGS = {f.name for f in fields(Entry)} | {
    'key',
    'norm',
    'eps',
    'mask',
    'reasons',
}
