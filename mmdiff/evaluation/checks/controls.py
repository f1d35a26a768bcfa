"""Controls: what runs beside an attack say of it, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..entry import Entry, Flag
from ..record import RunRecord
from ..results import RunSanity
from .codes import CODES, flag, slack, weaker_than_noise

# A few queries without gradients reach a small part of what gradients do, if these are
# worth anything.
BLACK_BOX_SHARE = 0.3
# More steps always help a little: a tenth of the clean score is much.
MUCH = 0.1


def check_controls(
    entry: Entry,
    clean: RunRecord,
    attacked: RunRecord,
    controls: Mapping[str, RunRecord],
    score_name: str,
    shown: Sequence[bool] | None = None,
) -> tuple[RunSanity, list[Flag]]:
    """Compare an attack with its controls, image by image.

    Args:
        entry: Row of the attack.
        clean: Record of the clean run.
        attacked: Record of the attack.
        controls: Records of the controls by name, on the first images of those:
            ``random_noise``, ``longer``, ``large`` and ``square``, or some of them.
        score_name: What a score per image is: ``'mean AP per image'``.
        shown: Whether each image shows anything that can be lost; ``None``: all do.
            What an attack leaves of the others (one that hides objects raises their
            score) says nothing of its gradients: no flag rests on them.

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
    counted = np.ones(images, bool) if shown is None else np.array(shown[:images], bool)
    flags: list[Flag] = []
    if counted.any():
        runs = {'clean': clean, 'attacked': attacked, **controls}
        scored = {name: run.score[:images][counted] for name, run in runs.items()}
        flags = _check_scores(entry, scored, score_name)
    if 'square' in controls:
        start = controls['longer'].objective_start()
        hidden = _check_objectives(sanity, attacked, controls['square'], start)
        # Where an attack leaves nothing, random changes may do much, too: the model is
        # that weak, and nothing is hidden.
        if not counted.any() or shows_something(scored['attacked'], scored['clean']):
            flags += hidden
    order = list(CODES)
    return sanity, sorted(flags, key=lambda f: order.index(f.code))


def shows_something(left: np.ndarray, clean: np.ndarray) -> bool:
    """Whether scores (N,) are more than what nearly nothing has, beside clean ones.

    Example:
        >>> shows_something(np.array([0.1, 0.3]), np.array([1.0, 1.0]))
        False
    """
    return bool(left.mean() > max(MUCH * clean.mean(), 1 / len(clean)))


def _check_scores(
    entry: Entry, scored: Mapping[str, np.ndarray], score_name: str
) -> list[Flag]:
    """Compare scores with noise, with a budget that hides everything and more steps.

    An attack that hides nearly everything within its own budget has gradients that lead
    somewhere, whatever a huge one leaves: a loss may grow on without hiding more.
    Inside a mask no budget hides everything: there it must leave no more than the
    attack itself does.

    Args:
        entry: Row of the attack.
        scored: Scores of images that show something, (N,), by the name of the run.
        score_name: See :func:`check_controls`.
    """
    name, masked = entry.name, entry.budget is not None and bool(entry.budget.mask)
    scores = {run: float(values.mean()) for run, values in scored.items()}
    images = len(scored['clean'])
    clean, score, tolerance = scores['clean'], scores['attacked'], slack(images)
    flags = []
    noise = scores['random_noise']
    # Noise that hurts no more than chance says nothing, nor does one that leaves
    # nothing, beside which no attack can stand out.
    if noise < score - tolerance / 2 and noise < clean - tolerance:
        flags.append(weaker_than_noise(name, score, noise, score_name))
    large = scores.get('large', 0.0)
    if masked and large > score + tolerance:
        text = (
            f'{name} leaves a {score_name} of {score:.3f}, with a huge budget in the '
            f'same mask {large:.3f}: its gradients lead nowhere'
        )
        flags.append(flag('gradients_lead_nowhere', text))
    tried = [scored[run] for run in ('attacked', 'longer', 'large') if run in scored]
    reached = not all(shows_something(left, scored['clean']) for left in tried)
    if 'large' in scored and not masked and not reached:
        text = (
            f'{name} leaves a {score_name} of {score:.3f} (clean {clean:.3f}), and '
            f'{large:.3f} at a budget that hides everything: its gradients lead '
            'nowhere'
        )
        flags.append(flag('gradients_lead_nowhere', text))
    if 'longer' in scored:
        gain = scored['attacked'] - scored['longer']
        net = int((gain > 0.05).sum() - (gain < -0.05).sum())
        if gain.mean() > MUCH * clean and net > max(1, images / 8):
            text = (
                f'{name} is not converged: more steps lower the {score_name} '
                f'from {score:.3f} to {scores["longer"]:.3f}'
            )
            flags.append(flag('not_converged', text))
    return flags


def _check_objectives(
    sanity: RunSanity, attacked: RunRecord, square: RunRecord, start: float | None
) -> list[Flag]:
    """Compare final objectives with black-box search; add them to the figures.

    Args:
        sanity: Takes the means per image.
        attacked: Record of the attack.
        square: Record of black-box search.
        start: Objective before the first step of an attack, summed over images.
    """
    losses = np.stack([attacked.loss[: sanity.images], square.loss])
    both = np.isfinite(losses).all(0)  # an image left out has none
    white, black = losses[:, both].sum(1) / max(both.sum(), 1)
    sanity.objective, sanity.square_objective = float(white), float(black)
    start = white if start is None else start / max(both.sum(), 1)
    sanity.objective_start = float(start)
    if black - start > max(BLACK_BOX_SHARE * (white - start), 0):
        text = (
            f'{sanity.attack} raises its objective from {start:.4g} to {white:.4g}, '
            f'black-box search to {black:.4g}: its gradients are hidden'
        )
        return [flag('gradient_hidden', text)]
    return []
