"""``robustness.json``: all rows of one model, and where they come from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmdiff.attacks.probes.findings import Probes
from mmdiff.utils.files import write_json

from .entry import Entry, Flag
from .reading import known, number
from .schema_2 import SCHEMA_2, upgrade
from .shield import Shield

SCHEMA = 'mmdiff-robustness/3'
PROTOCOLS = ('adaptive', 'paper')
ANEW = 'write it anew with tools/test.py --attack.'


@dataclass
class ModelCost:
    """What a model cost.

    Args:
        trainable_params: Parameters that training changes.
        train_seconds: Time that training took; ``None`` if unknown.

    Example:
        >>> ModelCost(1.5e6).train_seconds is None
        True
    """

    trainable_params: float | None = None
    train_seconds: float | None = None


@dataclass
class RunSanity:
    """What the runs behind the checks found, over all rows.

    Args:
        images: Images of these runs.
        clean_runs_differ: Images on which two clean runs differ.
        larger_canvas: Images predicted on a larger canvas than they were attacked on.
        attack: Name of the row that was compared with controls; ``None`` if none was.
        scores: Mean score per image of ``clean``, ``attacked`` and every control.
        objective: Mean final objective of that attack.
        objective_start: Mean objective before the first step.
        square_objective: Mean final objective of black-box search.
        probes: What questions about the model and its gradients showed; ``None`` before
            they were asked.
    """

    images: int = 0
    clean_runs_differ: int = 0
    larger_canvas: int = 0
    attack: str | None = None
    scores: dict[str, float] = field(default_factory=dict)
    objective: float | None = None
    objective_start: float | None = None
    square_objective: float | None = None
    probes: Probes | None = None

    def to_json(self) -> dict[str, Any]:
        """One flat dictionary, without what is not known."""
        raw = asdict(self)
        raw.update(raw.pop('scores'))
        return {name: value for name, value in raw.items() if value is not None}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> RunSanity:
        """Read what :meth:`to_json` gave."""
        known = set(cls.__dataclass_fields__) - {'scores'}
        scores = {k: number(v) for k, v in raw.items() if k not in known}
        sanity = cls(**{k: v for k, v in raw.items() if k in known}, scores=scores)
        if sanity.probes is not None:
            sanity.probes = Probes.from_json(raw['probes'])
        return sanity


@dataclass(frozen=True)
class LeftOut:
    """An attack of a preset that was not run.

    Args:
        attack: Label that its row would have.
        reason: Sentence that says why.
    """

    attack: str
    reason: str


@dataclass
class Intervals:
    """How the intervals of a report are made.

    Args:
        resamples, level, seed: See :class:`~mmdiff.evaluation.uncertainty.Bootstrap`.
        tables: File beside the report from which intervals of differences are made;
            empty if there is none.
        problem: Sentence that says why there are no intervals; empty if there are.
    """

    resamples: int
    level: float
    seed: int
    tables: str = ''
    problem: str = ''


@dataclass
class Results:
    """Robustness of one model.

    Args:
        name: Name of the model.
        entries: Rows, the clean one first.
        protocol: ``'adaptive'`` or ``'paper'``.
        task: ``'detection'`` or ``'classification'``.
        config: Config file of the model.
        checkpoint: File of its weights.
        dataset: What was tested on: ``type``, ``ann_file``, ``data_root``, ``indices``.
        versions: Versions of the packages in use.
        device: ``'cpu'`` or ``'cuda'``.
        cost: What the model cost.
        sanity: What the runs behind the checks found; ``None`` before they ran.
        gallery: Attacked images: ``image_id``, ``attack``, ``eps`` and ``file``, the
            path of a PNG from the folder of the report.
        left_out: Attacks of a preset that have no meaning for the model.
        image_ids: Ids of the images, in the order of ``image_scores`` of rows.
        intervals: How intervals are made; ``None`` in files that know of none.
        not_measured: What the evaluator could measure and the run does not: masks.
        complete: Whether all that was asked for is there.
        shield: What stands in front of the model; ``None`` if nothing does.
        unexplained: Sentences that make the whole unreliable and belong to no row, in
            files of schema 2.

    Example:
        >>> results = Results('tiny', [Entry.clean()])
        >>> Results.from_json(results.to_json()) == results
        True
    """

    name: str
    entries: list[Entry]
    protocol: str = 'adaptive'
    task: str = 'detection'
    config: str = ''
    checkpoint: str = ''
    dataset: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    device: str = 'cpu'
    cost: ModelCost = field(default_factory=ModelCost)
    sanity: RunSanity | None = None
    gallery: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    not_measured: list[str] = field(default_factory=list)
    image_ids: list[Any] = field(default_factory=list)
    intervals: Intervals | None = None
    complete: bool = False
    shield: Shield | None = None
    unexplained: list[str] = field(default_factory=list)

    @property
    def flags(self) -> list[Flag]:
        """Flags of all rows, each once."""
        flags = [flag for entry in self.entries for flag in entry.flags]
        flags += [Flag('other', text) for text in self.unexplained]
        return list(dict.fromkeys(flags))

    @property
    def reasons(self) -> list[str]:
        """Sentences of the flags, each once."""
        return list(dict.fromkeys(flag.text for flag in self.flags))

    @property
    def unreliable(self) -> bool:
        """Whether any row is flagged."""
        return bool(self.flags)

    @property
    def clean(self) -> Entry:
        """The clean row."""
        return next(entry for entry in self.entries if entry.role == 'clean')

    def to_json(self) -> dict[str, Any]:
        """What ``robustness.json`` holds."""
        return {
            'schema': SCHEMA,
            'name': self.name,
            'protocol': self.protocol,
            'task': self.task,
            'config': self.config,
            'checkpoint': self.checkpoint,
            'dataset': self.dataset,
            'versions': self.versions,
            'device': self.device,
            'cost': asdict(self.cost),
            'image_ids': self.image_ids,
            'intervals': None if self.intervals is None else asdict(self.intervals),
            'shield': None if self.shield is None else asdict(self.shield),
            'results': [entry.to_json() for entry in self.entries],
            'left_out': [asdict(attack) for attack in self.left_out],
            'not_measured': self.not_measured,
            'complete': self.complete,
            'unreliable': self.unreliable,
            'reasons': self.reasons,
            'sanity': None if self.sanity is None else self.sanity.to_json(),
            'gallery': self.gallery,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Results:
        """Read schema 3 or 2.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: If it is damaged.
        """
        if raw['schema'] == SCHEMA_2:
            raw = upgrade(raw)
        entries = [Entry.from_json(row) for row in raw['results']]
        told = {text for entry in entries for text in entry.reasons}
        left = [str(r) for r in raw.get('reasons') or () if r not in told]
        if raw.get('unreliable') and not told and not left:
            left.append('the file says that it is unreliable, without a reason')
        sanity, spread = raw.get('sanity'), raw.get('intervals')
        shield = raw.get('shield')
        return cls(
            name=str(raw['name']),
            entries=entries,
            protocol=str(raw['protocol']),
            task=str(raw.get('task', 'detection')),
            config=str(raw.get('config') or ''),
            checkpoint=str(raw.get('checkpoint') or ''),
            dataset=dict(raw.get('dataset') or {}),
            versions=dict(raw.get('versions') or {}),
            device=str(raw.get('device') or ''),
            cost=ModelCost(**(raw.get('cost') or {})),
            sanity=None if sanity is None else RunSanity.from_json(sanity),
            gallery=[dict(picture) for picture in raw.get('gallery') or ()],
            left_out=[LeftOut(**attack) for attack in raw.get('left_out') or ()],
            not_measured=[str(what) for what in raw.get('not_measured') or ()],
            image_ids=list(raw.get('image_ids') or ()),
            intervals=None if spread is None else known(Intervals, spread),
            complete=bool(raw.get('complete')),
            shield=None if shield is None else known(Shield, shield),
            unexplained=left,
        )

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def read(cls, path: str | Path) -> Results:
        """Read a file of schema 3 or 2.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no report, is damaged, or has not one clean row.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f'There is no file {path}; give a robustness.json.')
        try:
            raw = json.loads(path.read_text(encoding='utf-8'))
        except ValueError as error:
            raise ValueError(f'{path} is not JSON ({error}).') from None
        schema = raw.get('schema') if isinstance(raw, dict) else None
        if schema not in (SCHEMA, SCHEMA_2):
            raise ValueError(
                f'{path} is no robustness report: its schema is {schema!r}, not '
                f'{SCHEMA} or {SCHEMA_2}; {ANEW}'
            )
        try:
            results = cls.from_json(raw)
            for entry in results.entries:
                if math.isnan(entry.value):
                    raise ValueError(f'{entry.key} has no {entry.metric}')
        except (
            AttributeError,
            KeyError,
            StopIteration,
            TypeError,
            ValueError,
        ) as error:
            raise ValueError(
                f'{path}: the report of {raw.get("name")!r} is damaged '
                f'({type(error).__name__}: {error}); {ANEW}'
            ) from None
        count = sum(entry.role == 'clean' for entry in results.entries)
        if count != 1:
            raise ValueError(
                f'{path}: {results.name!r} has {count} clean entries, not one to '
                f'compare the attacked ones with; {ANEW}'
            )
        return results
