"""Reader of ``robustness.json`` of schema 2: turns it into schema 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCHEMA_2 = 'mmdiff-robustness/2'
# Schema 2 called things so; a label or key may begin with such a name.
NAMES = {
    'ensemble': 'worst_case',
    'noise': 'random_noise',
}
# Schema 2 had sentences without codes: a part of each sentence, and its code.
CODES = {
    'met no gradient at all': 'blocked',
    'images only': 'few_changed',
    'did not raise its objective': 'objective_not_raised',
    'non-finite gradients': 'nonfinite_gradients',
    'that were zero': 'zero_gradients',
    'left its budget': 'left_budget',
    'left the range of pixels': 'left_pixel_range',
    'above the clean one': 'raised_metric',
    'averaged over 1 pass': 'randomised',
    'hurts less than noise': 'weaker_than_noise',
    'is not converged': 'not_converged',
    'lead nowhere': 'gradients_lead_nowhere',
    'hidden': 'gradient_hidden',
    'nothing can be lost': 'clean_is_zero',
    'attacks are flagged': 'all_flagged',
}


def upgrade(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a whole file of schema 2 into what schema 3 says of the same run.

    Sentences stay as they are. Settings that schema 2 did not know stay unknown.
    """
    upgraded = dict(raw)
    upgraded['results'] = [upgrade_entry(row) for row in raw['results']]
    if raw.get('sanity'):
        upgraded['sanity'] = {_rename(k): v for k, v in raw['sanity'].items()}
    return upgraded


def upgrade_entry(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Turn one row of schema 2 into one of schema 3."""
    entry = dict(raw)
    for key in ('attack', 'label', 'role', 'key'):
        entry[key] = _rename(str(entry[key]))
    entry['members'] = [_rename(key) for key in raw.get('members', ())]
    # An attack on another model was named after its source, not after itself.
    entry['attack'] = entry.pop('inner', entry['attack'])
    entry['image_score'] = entry.pop('image_ap', None)
    if 'metrics_worst_case' in entry:
        entry['metrics_worst_restart'] = entry.pop('metrics_worst_case')
    reasons = entry.pop('reasons', ())
    entry['flags'] = [{'code': code_of(text), 'text': text} for text in reasons]
    return entry


def code_of(sentence: str) -> str:
    """Code of a sentence of schema 2; ``'other'`` if it is none of its checks'."""
    for part, code in CODES.items():
        if part in sentence:
            return code
    return 'other'


def _rename(name: str) -> str:
    first, *rest = name.split('_')
    return '_'.join([NAMES.get(first, first), *rest])
