"""Can a robustness figure be believed? Checks of every attack, in plain words.

A check adds a :class:`Flag`. A new one needs a code with its explanation in
:data:`CODES` and the lines that raise it; pages and tables show it by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .entry import Entry, Flag
from .record import RunRecord
from .results import RunSanity

# What a reader of a page must know about each flag.
CODES = {
    'blocked': 'What was measured is the absence of an attack.',
    'few_changed': 'It hardly attacked: its metric says little about robustness.',
    'objective_not_raised': (
        'It did not find its way: read its metric as an upper bound.'
    ),
    'nonfinite_gradients': (
        'Gradients broke numerically: a working attack may go lower.'
    ),
    'zero_gradients': 'It was blind there: a working attack may go lower.',
    'left_budget': 'It did more than it may: its metric is of another threat model.',
    'left_pixel_range': 'No image file holds such values: its metric is of no image.',
    'raised_metric': 'An attack that helps measures chance, or a mistake.',
    'randomised': 'One pass is one draw: an attack on the mean may go lower.',
    'weaker_than_noise': 'Its gradients lead nowhere: a working attack may go lower.',
    'not_converged': 'Give it more steps: read its metric as an upper bound.',
    'gradients_lead_nowhere': 'What was measured is the absence of an attack.',
    'gradient_hidden': (
        'What needs no gradient does better: read its metric as an upper bound.'
    ),
    'clean_is_zero': 'Nothing can be said about the robustness of this model.',
    'all_flagged': 'Read its metric as an upper bound.',
}
# Share of the gradients that may be zero: a loss can be flat on an image or two; on a
# tenth of all gradients it hides.
ZERO_SHARE = 0.1
# DAG leaves an image alone in which no proposal shows an object: if that is most of
# them, the detector is too weak for DAG to say anything.
CHANGED_SHARE = 0.5
# Black-box search and gradients both begin at random: ties within 5 % are chance.
BLACK_BOX_GAIN = 0.05
# More steps always help a little: a tenth of the clean score is much.
MUCH = 0.1


def flag(code: str, text: str) -> Flag:
    """Make a flag of a known code.

    Example:
        >>> flag('few_changed', 'dag at eps=2 changed 41 of 95 images only').code
        'few_changed'

    Raises:
        ValueError: If :data:`CODES` does not explain the code.
    """
    if code not in CODES:
        raise ValueError(f'code={code!r} is unknown; explain it in CODES.')
    return Flag(code, text)


def slack(num_images: int) -> float:
    """Difference of mean scores that is chance: of few images, the luck of one."""
    return max(0.02, 1 / num_images)


def check_entry(entry: Entry, clean: Entry) -> list[Flag]:
    """Look for what one attack did that it should not.

    Args:
        entry: Row of an attack or a control, with its ``sanity``.
        clean: The clean row.
    """
    flags = [*_check_work(entry), *_check_bounds(entry)]
    if entry.role == 'attack':
        # A tie broken otherwise moves one class of one image.
        if entry.value > clean.value + max(1e-3, 0.2 / entry.num_images):
            text = (
                f'{entry.name} raised the metric above the clean one '
                f'({clean.value:.3f} to {entry.value:.3f})'
            )
            flags.append(flag('raised_metric', text))
    return flags


def _check_work(entry: Entry) -> list[Flag]:
    """Whether the attack could work: gradients, changes, objective."""
    sanity, name, flags = entry.sanity, entry.name, []
    allowed = entry.eps != 0
    if sanity.blocked:
        text = (
            f'{name} met no gradient at all on {sanity.blocked} images (a module runs '
            'under no_grad or detaches): their predictions are the clean ones'
        )
        flags.append(flag('blocked', text))
    elif allowed and sanity.images and sanity.changed_share <= CHANGED_SHARE:
        text = f'{name} changed {sanity.changed} of {sanity.images} images only'
        flags.append(flag('few_changed', text))
    start, end = sanity.objective_ends or (0, 1)
    # Means per image. An attack that keeps the best iterate returns at worst the first.
    if allowed and not end > start + 1e-6 * abs(start):
        text = f'{name} did not raise its objective ({start:.4g} to {end:.4g})'
        flags.append(flag('objective_not_raised', text))
    if sanity.nonfinite_grads:
        text = f'{name} met {sanity.nonfinite_grads} non-finite gradients'
        flags.append(flag('nonfinite_gradients', text))
    if sanity.zero_share > ZERO_SHARE:
        gradients = max(entry.cost.grad_evals, 1)
        text = f'{name} met {sanity.zero_grads} gradients of {gradients} that were zero'
        flags.append(flag('zero_gradients', text))
    return flags


def _check_bounds(entry: Entry) -> list[Flag]:
    """Whether the attack stayed where it must."""
    sanity, eps, flags = entry.sanity, entry.eps, []
    size = sanity.max_delta if entry.norm == 'linf' else sanity.max_l2
    # float32 around 255 resolves 1.5e-5; a norm sums over many pixels.
    if eps is not None and size > eps + 1e-3 * max(1, eps):
        text = f'{entry.name} left its budget: a change of {size:.4g}'
        flags.append(flag('left_budget', text))
    if sanity.images and not 0 <= sanity.pixel_min <= sanity.pixel_max <= 255:
        ends = f'{sanity.pixel_min:.4g} to {sanity.pixel_max:.4g}'
        text = f'{entry.name} left the range of pixels: {ends}'
        flags.append(flag('left_pixel_range', text))
    return flags


def check_clean(clean: Entry) -> list[Flag]:
    """Whether there is anything to lose."""
    if clean.value == 0:
        text = 'clean: its main metric is 0, nothing can be lost'
        return [flag('clean_is_zero', text)]
    return []


def check_randomness(entry: Entry, differing: int, num_checked: int) -> list[Flag]:
    """Whether an attack on a randomised model averages over its draws.

    Args:
        entry: Row of an attack.
        differing: Images on which two clean runs differ.
        num_checked: Images of these runs.
    """
    if not differing or entry.role != 'attack' or entry.settings.get('eot', 1) != 1:
        return []
    cure = 'set eot' if 'eot' in entry.settings else 'and it has no eot to set'
    text = (
        f'{entry.name} averaged over 1 pass, but two clean runs differ on {differing} '
        f'of {num_checked} images: randomised, {cure}'
    )
    return [flag('randomised', text)]


def count_differing(
    first: RunRecord, second: RunRecord, differ: Callable[[dict, dict], bool]
) -> int:
    """Images on which two runs differ; the first may be on more images.

    Args:
        first: The first run.
        second: The second run.
        differ: Whether two predictions do
            (:meth:`mmdiff.evaluation.scoring.Scorer.differ`).
    """
    pairs = zip(first.predictions, second.predictions)
    return sum(differ(one, other) for one, other in pairs)


def is_blind(entry: Entry) -> bool:
    """Whether an attack sees no gradient of the model under test."""
    if entry.settings.get('source') is not None:
        return True
    return entry.attack in ('random_noise', 'square')


def check_rows(rows: Sequence[Entry], clean: Entry, score_name: str) -> None:
    """Compare noise and black-box search in a plan with its other attacks.

    Args:
        rows: Rows of one budget; flags are added to them.
        clean: The clean row.
        score_name: What a score per image is: ``'mean AP per image'``.
    """
    noise = _lowest(rows, 'random_noise')
    black_box = _lowest(rows, 'square')
    tolerance = slack(clean.num_images)
    # A row that counts those above it says nothing about itself.
    alone = not any(row.cumulative for row in rows)
    for row in rows:
        if row.role != 'attack':
            continue
        score = row.image_score or 0.0
        if noise < min(score - tolerance / 2, (clean.image_score or 0.0) - tolerance):
            row.flags.append(_weaker_than_noise(row.name, score, noise, score_name))
        if alone and not is_blind(row) and black_box < score - tolerance:
            text = (
                f'{row.name} leaves a {score_name} of {score:.3f}, black-box search '
                f'{black_box:.3f}: its gradients may be hidden'
            )
            row.flags.append(flag('gradient_hidden', text))


def _lowest(rows: Sequence[Entry], attack: str) -> float:
    """Lowest score that rows of one blind attack on the model itself leave."""
    scores = [
        row.image_score or 0.0
        for row in rows
        if row.attack == attack and row.settings.get('source') is None
    ]
    return min(scores, default=1.0)


def _weaker_than_noise(name: str, score: float, noise: float, score_name: str) -> Flag:
    text = (
        f'{name} hurts less than noise of its size ({score_name} {score:.3f} against '
        f'{noise:.3f})'
    )
    return flag('weaker_than_noise', text)


def check_members(worst_case: Entry, rows: Sequence[Entry]) -> list[Flag]:
    """Whether a worst case has a member to be believed."""
    members = [row for row in rows if row.key in worst_case.members]
    if members and all(row.flags for row in members):
        text = f'{worst_case.name}: all its attacks are flagged'
        return [flag('all_flagged', text)]
    return []


def check_controls(
    entry: Entry,
    clean: RunRecord,
    attacked: RunRecord,
    controls: Mapping[str, RunRecord],
    score_name: str,
) -> tuple[RunSanity, list[Flag]]:
    """Compare an attack with its controls, image by image.

    Args:
        entry: Row of the attack.
        clean: Record of the clean run.
        attacked: Record of the attack.
        controls: Records of the controls by name, on the first images of those:
            ``random_noise``, ``longer``, ``large`` and ``square``, or some of them.
        score_name: What a score per image is: ``'mean AP per image'``.

    Returns:
        Figures of the comparison, and flags.
    """
    images = min(len(run.score) for run in controls.values())
    scores = {
        'clean': float(clean.score[:images].mean()),
        'attacked': float(attacked.score[:images].mean()),
    }
    scores.update({name: float(run.score.mean()) for name, run in controls.items()})
    sanity = RunSanity(images=images, attack=entry.name, scores=scores)
    flags = _check_scores(entry.name, scores, images, score_name)
    if 'longer' in controls:
        gain = attacked.score[:images] - controls['longer'].score
        net = int((gain > 0.05).sum() - (gain < -0.05).sum())
        if gain.mean() > MUCH * scores['clean'] and net > max(1, images / 8):
            text = (
                f'{entry.name} is not converged: more steps lower the {score_name} '
                f'from {scores["attacked"]:.3f} to {scores["longer"]:.3f}'
            )
            flags.append(flag('not_converged', text))
    if 'square' in controls:
        flags += _check_objectives(sanity, attacked, controls['square'])
    order = list(CODES)
    return sanity, sorted(flags, key=lambda f: order.index(f.code))


def _check_scores(
    name: str, scores: Mapping[str, float], images: int, score_name: str
) -> list[Flag]:
    """Compare mean scores with noise, and with a budget that hides everything."""
    clean, score, tolerance = scores['clean'], scores['attacked'], slack(images)
    flags = []
    noise = scores['random_noise']
    # Noise that hurts no more than chance says nothing, nor does one that leaves
    # nothing, beside which no attack can stand out.
    if noise < score - tolerance / 2 and noise < clean - tolerance:
        flags.append(_weaker_than_noise(name, score, noise, score_name))
    if 'large' in scores and scores['large'] > MUCH * clean + tolerance:
        text = (
            f'{name} leaves a {score_name} of {scores["large"]:.3f} (clean '
            f'{clean:.3f}) at a budget that hides everything: its gradients lead '
            'nowhere'
        )
        flags.append(flag('gradients_lead_nowhere', text))
    return flags


def _check_objectives(
    sanity: RunSanity, attacked: RunRecord, square: RunRecord
) -> list[Flag]:
    """Compare final objectives with black-box search; add them to the figures."""
    losses = np.stack([attacked.loss[: sanity.images], square.loss])
    both = np.isfinite(losses).all(0)  # an image left out has none
    white, black = losses[:, both].sum(1) / max(both.sum(), 1)
    sanity.objective, sanity.square_objective = float(white), float(black)
    if black - white > BLACK_BOX_GAIN * abs(white):
        text = (
            f'{sanity.attack} reaches an objective of {white:.4g}, black-box search '
            f'{black:.4g}: its gradients are hidden'
        )
        return [flag('gradient_hidden', text)]
    return []
