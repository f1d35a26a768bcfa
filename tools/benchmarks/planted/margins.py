"""How far thresholds of checks are from what was measured on either side of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mmdiff.evaluation.checks import budgets, controls, probes, rows

HEADER = '| measured | flag | threshold | healthy, at worst | flagged, at least |\n'
HEADER += '|---|---|---|---|---|\n'


@dataclass(frozen=True)
class Margin:
    """A threshold, and how to read what it judges from a case.

    Args:
        what: What is measured.
        code: Flag that a value beyond the threshold raises.
        threshold: The threshold.
        read: Gives the value of a case; ``None`` if it was not measured.
        above: Whether values above the threshold are flagged, or those below.
    """

    what: str
    code: str
    threshold: float
    read: Callable[[dict], float | None]
    above: bool = True

    def line(self, cases: Sequence[dict]) -> str:
        """The row of the table: the nearest values of healthy and of flagged cases."""
        worst, mildest = (max, min) if self.above else (min, max)
        healthy = self._values(row for row in cases if row['healthy'])
        flagged = self._values(row for row in cases if self.code in row['flags'])
        beyond = [v for v in flagged if (v > self.threshold) == self.above]
        texts = [_text(worst, healthy), _text(mildest, beyond)]
        return (
            f'| {self.what} | `{self.code}` | {self.threshold:g} | {texts[0]} | '
            f'{texts[1]} |\n'
        )

    def _values(self, cases: Iterable[dict]) -> list[float]:
        values = (self.read(row) for row in cases)
        return [v for v in values if v is not None and math.isfinite(v)]


def table(cases: Sequence[dict]) -> str:
    """All thresholds with what is nearest to them, in Markdown."""
    return HEADER + ''.join(margin.line(cases) for margin in MARGINS)


def _text(choose: Callable, values: list[float]) -> str:
    return f'{choose(values):.3g}' if values else 'none'


def _of_model(row: dict) -> dict:
    return row['sanity']['probes']['model']


def _of_attack(row: dict) -> dict:
    return row['attack']


def _model(*names: str) -> Callable[[dict], float | None]:
    """The largest of some gaps of the model."""
    return lambda row: max(_of_model(row)[name] or 0.0 for name in names)


def _objective(row: dict) -> dict:
    return next(iter(row['sanity']['probes']['objectives']), {})


def _lowest_part(row: dict) -> float | None:
    return min(_objective(row).get('parts', {}).values(), default=None)


def _roughest(row: dict) -> float | None:
    return min(_objective(row).get('smoothness', {}).values(), default=None)


def _blind(row: dict) -> float | None:
    model = _of_model(row)
    return min(model['blind_share'], model['blind_change'])


def _uneven(row: dict) -> float | None:
    gains = [abs(gain) for gain in _objective(row).get('gains', {}).values()]
    return max(gains) / max(min(gains), 1e-9) if gains else None


def _whole(row: dict) -> float | None:
    """Of those that are judged by it."""
    probe = _objective(row)
    return None if probe.get('refines') else probe.get('best_agreement')


def _share(part: str, of: str, where: Callable[[dict], dict]) -> Callable:
    def read(row: dict) -> float | None:
        counts = where(row)
        return counts[part] / counts[of] if counts.get(of) else None

    return read


def _fit(name: str) -> Callable[[dict], float | None]:
    return lambda row: max(_of_model(row)[name].values(), default=None)


def _luck(row: dict) -> float | None:
    """Rise of the last iterate above the first, in best noises."""
    losses, luck = row['losses'], _objective(row).get('noise_rise', {}).values()
    if not losses or not row['attack']['images'] or not max(luck, default=0) > 0:
        return None
    first, last = (losses[step(losses, key=int)] for step in (min, max))
    return (last - first) / row['attack']['images'] / max(luck)


def _used(row: dict) -> float | None:
    size = 'max_delta' if row['norm'] == 'linf' else 'max_l2'
    return row['attack'][size] / row['eps'] if row['attack']['images'] else None


def _longer(row: dict) -> float | None:
    scores = row['sanity']
    if 'longer' not in scores:
        return None
    return (scores['attacked'] - scores['longer']) / scores['clean']


def _large(row: dict) -> float | None:
    scores = row['sanity']
    if 'large' not in scores:
        return None
    lowest = min(scores[name] for name in ('attacked', 'longer', 'large'))
    return lowest / scores['clean']


def _black_box(row: dict) -> float | None:
    ends = row['sanity']
    if ends.get('square_objective') is None:
        return None
    rises = [
        ends[name] - ends['objective_start']
        for name in ('square_objective', 'objective')
    ]
    return rises[0] / rises[1] if rises[1] > 0 else math.inf


MARGINS = (
    Margin(
        'correlation, worst part',
        'gradient_wrong',
        probes.AGREEMENT,
        _lowest_part,
        False,
    ),
    Margin(
        'correlation, objective', 'gradient_wrong', probes.LOSS_AGREEMENT, _whole, False
    ),
    Margin(
        'correlation, sizes of changes, roughest feature map',
        'objective_jagged',
        probes.STEADY,
        _roughest,
        False,
    ),
    Margin(
        'size of gradients, feature maps',
        'gradient_wrong',
        probes.UNEVEN,
        _uneven,
    ),
    Margin(
        'features, gradients on or off',
        'other_with_gradients',
        probes.SAME,
        _model('grad_gap'),
    ),
    Margin(
        'inputs, features or scores, tests or attacks',
        'other_under_attack',
        probes.SAME,
        _model('input_gap', 'flag_gap', 'test_gap', 'head_gap'),
    ),
    Margin(
        'features, equal seeds', 'noise_without_seed', probes.SAME, _model('repeat_gap')
    ),
    Margin(
        'share of objects',
        'objects_ignored',
        probes.IGNORED,
        _share('objects_ignored', 'objects', _of_model),
    ),
    Margin(
        'loss, truth to other scale', 'truth_at_other_scale', probes.FIT, _fit('fit')
    ),
    Margin(
        'loss, truth to other classes', 'other_truth', probes.FIT, _fit('fit_classes')
    ),
    Margin('rise, in best noises', 'objective_not_raised', probes.LUCK, _luck, False),
    Margin(
        'share of gradients',
        'zero_gradients',
        rows.ZERO_SHARE,
        lambda row: row['attack']['zero_share'],
    ),
    Margin(
        'share of blind pixels, or their effect',
        'zero_gradients',
        probes.BLIND,
        _blind,
    ),
    Margin(
        'share of images',
        'few_changed',
        rows.CHANGED_SHARE,
        lambda row: row['attack']['changed_share'],
        False,
    ),
    Margin('share of the budget', 'budget_unused', budgets.USED_SHARE, _used, False),
    Margin(
        'share of images',
        'not_as_reported',
        budgets.MISREPORTED_SHARE,
        _share('misreported', 'asked_again', _of_attack),
    ),
    Margin('gain of more steps, of clean', 'not_converged', controls.MUCH, _longer),
    Margin(
        'left at 64/255 and before, of clean',
        'gradients_lead_nowhere',
        controls.MUCH,
        _large,
    ),
    Margin(
        'rise of black box, of gradients',
        'gradient_hidden',
        controls.BLACK_BOX_SHARE,
        _black_box,
    ),
)
