"""Rows: did an attack work, and does it contradict others of its budget?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from mmdiff.attacks.objectives import LOWERS_NO_AP, inner_objective
from mmdiff.attacks.torch_names import is_black_box, is_of_probabilities

from ..entry import Entry, Flag
from ..record import RunRecord
from .budgets import check_bounds
from .codes import flag, slack, weaker_than_noise

# Share of the gradients that may be zero: a loss can be flat on an image or two; on a
# tenth of all gradients it hides.
ZERO_SHARE = 0.1
# DAG leaves an image alone in which no proposal shows an object: if that is most of
# them, the detector is too weak for DAG to say anything.
CHANGED_SHARE = 0.5
# Logits of trained classifiers span 5 and more; within a twentieth the probability of
# each wrong class is the same to 5 %, and so is its weight in the gradient.
FLAT = 0.05
OF_PROBABILITIES = ('total', 'ce', 'kl')
# Evaluations that tell the spread of a model that draws, as an advice.
MANY = 8


def check_entry(entry: Entry, clean: Entry) -> list[Flag]:
    """Look for what one attack did that it should not.

    Args:
        entry: Row of an attack or a control, with its ``sanity``.
        clean: The clean row.
    """
    flags = [*_check_work(entry), *check_bounds(entry)]
    if entry.role == 'attack':
        # A tie broken otherwise moves one class of one image.
        tie = max(1e-3, 0.2 / entry.num_images)
        chance = max(tie, _chance(entry, clean), _luck(entry, clean))
        if entry.value > clean.value + chance:
            text = (
                f'{entry.name} raised the metric above the clean one '
                f'({clean.value:.3f} to {entry.value:.3f})'
            )
            flags.append(flag('raised_metric', text))
    return flags


def _tried_share(entry: Entry) -> float:
    """Share of the images that were changed, or given back clean after an attempt."""
    sanity = entry.sanity
    return sanity.changed_share + sanity.returned_clean / sanity.images


def _chance(*rows: Entry) -> float:
    """Difference of rows that is chance for a model that draws: two standard errors."""
    errors = [row.evaluations.error for row in rows if row.evaluations is not None]
    return 2 * sum(error**2 for error in errors) ** 0.5


def _luck(entry: Entry, clean: Entry) -> float:
    """Difference that is chance of an attack that does not look at the model.

    Two standard errors over images: it may turn a few wrong ones right.
    """
    pairs = len(entry.image_scores), len(clean.image_scores)
    if not is_blind(entry) or 0 in pairs or pairs[0] != pairs[1]:
        return 0.0
    apart = np.subtract(entry.image_scores, clean.image_scores)
    return 2 * float(apart.std()) / len(apart) ** 0.5


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
    elif allowed and sanity.images and _tried_share(entry) <= CHANGED_SHARE:
        text = f'{name} changed {sanity.changed} of {sanity.images} images only'
        flags.append(flag('few_changed', text))
    elif allowed and sanity.mask_empty and not (sanity.images or entry.cumulative):
        text = f'{name} changed no image: its mask has no pixel on any of them'
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


def check_clean(clean: Entry, num_classes: int = 0) -> list[Flag]:
    """Whether there is anything to lose, and the images are of many classes.

    Args:
        clean: Row of the clean run.
        num_classes: Classes of a set of which each image has one; 0 of any other.
    """
    flags = []
    if clean.value == 0:
        text = 'clean: its main metric is 0, nothing can be lost'
        flags.append(flag('clean_is_zero', text))
    # So many classes are seen, on average, by images that are drawn by chance.
    missed = (1 - 1 / num_classes) ** clean.num_images if num_classes else 1.0
    seen = len(clean.per_class)
    if seen < num_classes * (1 - missed) / 2:
        text = (
            f'clean: the {clean.num_images} images are of {seen} of {num_classes} '
            'classes, as the first ones of a set in the order of its classes are; '
            'choose images from all of it: dataset.indices=[0, 100, 200, ...]'
        )
        flags.append(flag('few_classes', text))
    return flags


def check_scores(entry: Entry, spread: float | None) -> list[Flag]:
    """Whether an attack on the cross-entropy sees which wrong class is close.

    Args:
        entry: Row of the attack; one that was made on another model is not looked at.
        spread: What :meth:`Scorer.score_spread` says of the clean images.
    """
    if spread is None or spread >= FLAT or entry.settings.get('source'):
        return []
    objective = inner_objective(entry.settings.get('objective') or '')
    if objective not in OF_PROBABILITIES and not is_of_probabilities(entry.attack):
        return []
    text = (
        f'scores of the classes are nearly equal (the highest is '
        f'{math.exp(spread):.6g} times the lowest on the clean images), so the loss of '
        f'{entry.name} is all but constant and does not aim at the class that is '
        'closest; attack by dlr or cw as well'
    )
    return [flag('scores_flat', text)]


def check_randomness(
    entry: Entry, differing: int, num_checked: int, evaluations: int = 1
) -> list[Flag]:
    """Whether an attack on a randomised model, and its choice, average over draws.

    Args:
        entry: Row of an attack, or a worst case.
        differing: Images on which two clean runs differ.
        num_checked: Images of these runs.
        evaluations: Evaluations of each row.
    """
    several = '' if evaluations > 1 else f'evaluations={MANY}'
    why = f'two clean runs differ on {differing} of {num_checked} images: randomised'
    if not differing:
        return []
    if entry.role == 'worst_case' and several:
        text = f'{entry.name} chose among single draws of each attack, but {why}, set '
        return [flag('lucky_draws', text + several)]
    if entry.role != 'attack' or entry.settings.get('eot', 1) != 1:
        return []
    cure = 'set eot' if 'eot' in entry.settings else 'and it has no eot to set'
    if several:
        cure += f', and {several} for the mean of as many draws'
    text = f'{entry.name} averaged over 1 pass, but {why}, {cure}'
    return [flag('randomised', text)]


def check_repeated(differing: int, num_checked: int) -> list[Flag]:
    """Whether recorded seeds fix what a model draws.

    Args:
        differing: Images on which two clean runs with equal seeds differ.
        num_checked: Images of these runs.
    """
    if not differing:
        return []
    text = (
        f'clean: two evaluations with equal seeds differ on {differing} of '
        f'{num_checked} images, so recorded seeds do not give these numbers again'
    )
    return [flag('noise_without_seed', text)]


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
    blind = entry.attack in ('random_noise', 'square', 'universal')
    return blind or is_black_box(entry.attack)


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
        # What does not aim at the metric may do less to it than what does not aim.
        aim = inner_objective(row.settings.get('objective') or '')
        if row.role != 'attack' or aim in LOWERS_NO_AP:
            continue
        score = row.image_score or 0.0
        if noise < min(score - tolerance / 2, (clean.image_score or 0.0) - tolerance):
            row.flags.append(weaker_than_noise(row.name, score, noise, score_name))
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


def check_members(worst_case: Entry, rows: Sequence[Entry]) -> list[Flag]:
    """Whether a worst case has a member to be believed."""
    members = [row for row in rows if row.key in worst_case.members]
    if members and all(row.flags for row in members):
        text = f'{worst_case.name}: all its attacks are flagged'
        return [flag('all_flagged', text)]
    return []
