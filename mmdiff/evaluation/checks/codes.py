"""Codes of flags, each with its explanation."""

from __future__ import annotations

from ..entry import Flag

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
    'attacked_padding': 'Padding is no part of an image: it did more than it may.',
    'budget_tiny': 'It may do next to nothing: its metric is that of a slip of units.',
    'budget_unused': 'It did less than it may: read its metric as an upper bound.',
    'not_as_reported': (
        'What it found is not what the model was tested on: read its metric as an '
        'upper bound.'
    ),
    'left_pixel_range': 'No image file holds such values: its metric is of no image.',
    'raised_metric': 'An attack that helps measures chance, or a mistake.',
    'gradient_wrong': 'It followed a wrong gradient: a working attack may go lower.',
    'gradient_replaced': (
        "It did not see through the shield: with gradient='exact' it may go lower."
    ),
    'objective_constant': (
        'Nothing tells whether it followed a gradient: a working attack may go lower.'
    ),
    'objective_jagged': 'Small steps lead nowhere: a working attack may go lower.',
    'other_with_gradients': 'It attacked another function than the one under test.',
    'other_under_attack': 'It attacked another function than the one under test.',
    'noise_without_seed': 'One pass is one draw: an attack on the mean may go lower.',
    'other_truth': 'It attacked objects that are not those of the metric.',
    'objects_ignored': 'It spared the others: a working attack may go lower.',
    'truth_at_other_scale': 'It attacked boxes that are not there.',
    'reads_truth': 'Its predictions know the answer: nothing is said about robustness.',
    'predictions_stuck': (
        'Its predictions are not those of the image: nothing is said about robustness.'
    ),
    'randomised': 'One pass is one draw: an attack on the mean may go lower.',
    'lucky_draws': (
        'The lowest of several single draws is lower than what the attacks do: it '
        'understates robustness.'
    ),
    'weaker_than_noise': (
        'It does not touch what the model sees (its gradients lead nowhere, or it was '
        'made on another model or other images): a working attack may go lower.'
    ),
    'scores_flat': (
        'All wrong classes weigh alike in it: an attack by margins (dlr, cw) may go '
        'lower.'
    ),
    'not_converged': (
        'Give it more or smaller steps: read its metric as an upper bound.'
    ),
    'gradients_lead_nowhere': 'What was measured is the absence of an attack.',
    'gradient_hidden': (
        'What needs no gradient does better: read its metric as an upper bound.'
    ),
    'few_classes': 'Nothing can be said about the other classes.',
    'clean_is_zero': 'Nothing can be said about the robustness of this model.',
    'all_flagged': 'Read its metric as an upper bound.',
}


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


def weaker_than_noise(name: str, score: float, noise: float, score_name: str) -> Flag:
    text = (
        f'{name} hurts less than noise of its size ({score_name} {score:.3f} against '
        f'{noise:.3f})'
    )
    return flag('weaker_than_noise', text)
