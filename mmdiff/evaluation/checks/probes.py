"""Probes: does a model answer attacks as it answers tests?"""

from __future__ import annotations

from mmdiff.attacks.objectives import REPORTED
from mmdiff.attacks.probes.findings import ModelProbe, ObjectiveProbe, Probes

from ..entry import Entry, Flag
from .codes import flag

# Correlation of a gradient with central differences. Sound ones have 0.99 and more.
AGREEMENT = 0.97
# The same of a loss where the gradients of all heads are right: many losses take
# targets from predictions and leave out their gradient (0.64 of 'cls' of YOLOX). Of a
# loss that jumps, too: attacks work on one that is rounded (0.7) but for its slope.
LOSS_AGREEMENT = 0.5
# An objective whose own differences at two sizes agree less is jagged, whatever its
# gradient says.
STEADY = 0.9
# Gradients of feature maps are all of one size, but for rounding: the largest, compared
# with what changes of the image do, is at most so many times the smallest.
UNEVEN = 1.5
# Relative difference of what must be equal: above rounding, below what a defence does.
SAME = 1e-3
# Share of objects that may move without any change of the loss: tiny or hidden ones
# that no anchor point is assigned to.
IGNORED = 0.25
# A loss may be lower for boxes at another scale by chance, of a detector that sees
# next to nothing.
FIT = 2.0
# Share of pixel values without a gradient, and what moving them does of what moving all
# does: features of sound models depend on every value.
BLIND = 0.05
# An attack that works rises by many times what the best of eight noises does.
LUCK = 3.0


def check_probes(probes: Probes, objective: str) -> list[Flag]:
    """Whether the gradient and the loss of an objective can be believed.

    Args:
        probes: What was probed.
        objective: Name of the objective of a row.
    """
    flags, probe = _check_model(probes.model), probes.of(objective)
    if probe is not None and probes.model.repeat_gap <= SAME:
        flags += _check_objective(probe)
    return list({f.code: f for f in flags}.values())


def check_rise(entry: Entry, probes: Probes) -> list[Flag]:
    """Whether the last iterate of an attack along gradients rose by more than luck.

    Args:
        entry: Row of the attack. The best iterate, which it may have returned, is above
            the first one by luck alone.
        probes: What was probed.
    """
    sanity, probe = entry.sanity, probes.of(entry.settings.get('objective', ''))
    if probe is None or not sanity.losses or not sanity.images:
        return []
    first, last = (
        sanity.losses[step] / sanity.images
        for step in (min(sanity.losses), max(sanity.losses))
    )
    luck = max(probe.noise_rise.get(str(entry.budget), 0.0), 0.0)
    if last - first > LUCK * luck:
        return []
    text = (
        f'{entry.name} did not raise its objective by more than luck: its last iterate '
        f'is {last - first:.3g} above its first, the best of a few noises {luck:.3g} '
        'above the image'
    )
    return [flag('objective_not_raised', text)]


def _check_model(probe: ModelProbe) -> list[Flag]:
    flags = []
    if probe.repeat_gap > SAME:
        text = (
            f'features differ by {probe.repeat_gap:.2g} between two passes with equal '
            'seeds: gradients cannot be checked'
        )
        flags.append(flag('noise_without_seed', text))
    elif probe.grad_gap > SAME:
        text = (
            'the model answers otherwise while gradients are on: features differ by '
            f'{probe.grad_gap:.2g} of their size'
        )
        flags.append(flag('other_with_gradients', text))
    elif (why := _other_under_attack(probe)) is not None:
        text = f'the model answers attacks otherwise than tests: {why}'
        flags.append(flag('other_under_attack', text))
    if min(probe.blind_share, probe.blind_change) > BLIND and not probe.repeat_gap:
        text = (
            f'the gradient is zero on {100 * probe.blind_share:.0f} % of the pixel '
            'values, and moving these by the whole budget changes features by '
            f'{probe.blind_change:.2f} of what moving all does'
        )
        flags.append(flag('zero_gradients', text))
    return [*flags, *_check_predictions(probe), *_check_truth(probe)]


def _check_predictions(probe: ModelProbe) -> list[Flag]:
    """Whether a test is of the image, and of nothing else that is handed over."""
    flags = []
    if probe.truth_read:
        text = (
            f'predictions of {probe.truth_read} of {probe.images} images change with '
            'the truth in their data sample'
        )
        flags.append(flag('reads_truth', text))
    if probe.stuck or probe.name_read:
        text = (
            f'of {probe.images} images, the predictions of {probe.stuck} stay the '
            'same when the image is another one, and those of '
            f'{probe.name_read} change with its name'
        )
        flags.append(flag('predictions_stuck', text))
    return flags


def _other_under_attack(probe: ModelProbe) -> str | None:
    """What differs under attack, in words; ``None`` if nothing does."""
    if probe.input_gap > SAME:
        return f'its preprocessor gives inputs that differ by {probe.input_gap:.2g}'
    if (probe.flag_gap or 0.0) > SAME:
        return (
            'with the flags that losses need, features differ by '
            f'{probe.flag_gap:.2g} of their size'
        )
    if probe.head_gap > SAME:
        return (
            'heads score the same features otherwise for losses than in a test, by '
            f'{probe.head_gap:.2g} of their size'
        )
    if (probe.test_gap or 0.0) > SAME:
        return (
            'features that losses are taken on differ from those of a test by '
            f'{probe.test_gap:.2g} of their size'
        )
    if probe.more_calls > 0:
        return (
            f'a test asks a head more often than a loss does (by {probe.more_calls}), '
            'as of other views of the image, which the attack does not see'
        )
    return None


def _check_truth(probe: ModelProbe) -> list[Flag]:
    """Whether the loss knows the objects that the metric counts."""
    flags = []
    if probe.objects_handed != probe.objects or probe.objects_misplaced:
        text = (
            f'the loss is given {probe.objects_handed} objects, the metric counts '
            f'{probe.objects}, and {probe.objects_misplaced} of them are elsewhere'
        )
        flags.append(flag('other_truth', text))
    shift = max(probe.fit_classes, key=lambda k: probe.fit_classes[k], default='')
    if shift and probe.fit_classes[shift] > FIT:
        text = (
            f'the loss against the truth is {probe.fit_classes[shift]:.3g} times that '
            f'against classes shifted by {shift}: it takes them in another order'
        )
        flags.append(flag('other_truth', text))
    scale = max(probe.fit, key=lambda name: probe.fit[name], default='')
    if probe.objects_ignored > IGNORED * probe.objects:
        text = (
            f'the loss ignores {probe.objects_ignored} of {probe.objects} objects: '
            'they may move without any change of it'
        )
        flags.append(flag('objects_ignored', text))
    elif scale and probe.fit[scale] > FIT:
        text = (
            f'the loss against the truth is {probe.fit[scale]:.3g} times that against '
            f'boxes at another scale ({scale}): it takes the truth at a wrong one'
        )
        flags.append(flag('truth_at_other_scale', text))
    return flags


def _check_objective(probe: ObjectiveProbe) -> list[Flag]:
    """Whether a gradient is that of its objective."""
    name = f'objective {probe.objective!r}'
    if probe.repeat_gap > SAME:
        text = (
            f'{name} differs by {probe.repeat_gap:.2g} between two passes with equal '
            'seeds: its gradient cannot be checked'
        )
        return [flag('noise_without_seed', text)]
    if probe.grad_gap > SAME:
        text = (
            f'the model answers otherwise while gradients are on: {name} differs by '
            f'{probe.grad_gap:.2g}'
        )
        return [flag('other_with_gradients', text)]
    return _check_gradient(probe)


def _check_gradient(probe: ObjectiveProbe) -> list[Flag]:
    """Whether the gradient is the slope, of the parts of the model and of the whole."""
    if probe.best_agreement is None:
        return _check_constant(probe)
    cut = {part: c for part, c in probe.parts.items() if c < AGREEMENT}
    jagged = {part: c for part, c in probe.smoothness.items() if c < STEADY}
    gains = [abs(gain) for gain in probe.gains.values()]
    if jagged:
        text = (
            'features are jagged: small changes of the image and smaller ones disagree '
            f'about {", ".join(jagged)} (correlation {min(jagged.values()):.2f})'
        )
        return [flag('objective_jagged', text)]
    if cut:
        text = (
            f'part of the gradient is cut or wrong: that of {", ".join(cut)} has a '
            f'correlation of {min(cut.values()):.2f} with what small changes of the '
            'image do'
        )
        return [flag('gradient_wrong', text)]
    if gains and max(gains) > UNEVEN * min(gains):
        text = (
            'part of the gradient is wrong: that of one feature map is '
            f'{max(gains) / max(min(gains), 1e-9):.3g} times that of another, compared '
            'with what small changes of the image do'
        )
        return [flag('gradient_wrong', text)]
    return _check_whole(probe, probe.best_agreement)


def _check_constant(probe: ObjectiveProbe) -> list[Flag]:
    """Whether nothing can be said, as an objective hides its changes by its size."""
    # What is reported is so wherever no candidate is on an object.
    if probe.objective in REPORTED or not probe.constant:
        return []
    if probe.constant + probe.blocked < probe.images:
        return []
    text = (
        f'objective {probe.objective!r} changes by no more than rounding on '
        f'{probe.constant} images that change: its gradient cannot be checked'
    )
    return [flag('objective_constant', text)]


def _check_whole(probe: ObjectiveProbe, best: float) -> list[Flag]:
    """Whether the gradient of an objective is its slope, where that of all parts is."""
    steady = probe.steadiness >= STEADY
    # Losses may leave out the gradient of their targets, and jump with them.
    known = not steady or any('head' in part for part in probe.parts)
    if probe.refines or best >= (LOSS_AGREEMENT if known else AGREEMENT):
        return []
    if not steady:
        text = (
            f'objective {probe.objective!r} is jagged: small changes of the image and '
            f'smaller ones disagree (correlation {probe.steadiness:.2f}), and its '
            f'gradient agrees with neither ({best:.2f})'
        )
        return [flag('objective_jagged', text)]
    text = (
        f'part of the gradient is cut or wrong: that of objective {probe.objective!r} '
        f'has a correlation of {best:.2f} with what small changes of the image do'
    )
    return [flag('gradient_wrong', text)]
