"""What is tried: healthy cases, and cases with a defect that a check should name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from . import models, more_models

PGD = {'type': 'mmdiff.PGD', 'eps': 8, 'steps': 10}
LONGER = {**PGD, 'steps': 40}
REPORTED = {**LONGER, 'objective': 'detections'}
APGD = {**PGD, 'type': 'mmdiff.APGD'}


@dataclass
class Case:
    """A detector and an attack, one of them broken or neither.

    Args:
        name: Its name.
        detector: Key of the small detectors.
        expected: Codes of flags that name the defect; empty of a healthy case.
        plant: Breaks (or changes without harm) the detector.
        attack: Config of the attack.
        gt_scale: Scale at which the truth is taken, if it is mistaken.
        padded: Whether the pipeline pads images.
        all_is_image: Whether padding is taken for a part of the image.
    """

    name: str
    detector: str = 'fcos'
    expected: tuple[str, ...] = ()
    plant: Callable[[nn.Module], None] | None = None
    attack: dict[str, Any] = field(default_factory=lambda: dict(PGD))
    gt_scale: str | None = None
    padded: bool = False
    all_is_image: bool = False

    @property
    def healthy(self) -> bool:
        return not self.expected


def healthy_cases() -> list[Case]:
    """Attacks that work on models that are sound."""
    cases = [Case(f'{kind}, PGD', kind) for kind in ('fcos', 'retinanet')]
    cases += [
        Case('faster-rcnn, PGD on moving proposals', 'faster-rcnn'),
        Case('faster-rcnn, APGD', 'faster-rcnn', attack=APGD),
        # Ten steps are flagged there as too few, rightly: more lower the score by far.
        Case('fcos, APGD', attack={**APGD, 'steps': 20}),
        Case('fcos, PGD on cls', attack={**LONGER, 'objective': 'cls'}),
        Case('fcos, PGD on vanishing', attack={**PGD, 'objective': 'vanishing'}),
        Case('retinanet, small budget', 'retinanet', attack={**PGD, 'eps': 2}),
        Case('fcos, L2', attack={**PGD, 'norm': 'l2', 'eps': 600}),
        Case('fcos, whole pixel values', attack={**PGD, 'quantize': True}),
        Case('fcos behind a mild blur', plant=models.blurred),
        Case('fcos, scores close to 0 and 1', plant=models.scores_saturated),
        Case('fcos, gradient rescaled', plant=models.gradient_rescaled),
        Case(
            'retinanet, fresh noise, averaged',
            'retinanet',
            plant=models.fresh_noise,
            attack={**PGD, 'eot': 2},
        ),
    ]
    cases += [Case(f'{kind}, PGD', kind) for kind in ('gfl', 'yolox', 'rtmdet')]
    cases += [
        Case('mask-rcnn, PGD', 'mask-rcnn', attack=LONGER),
        Case('dino, PGD', 'dino', attack=LONGER),
        Case('fcos, padded by the pipeline', padded=True),
        Case('retinanet, PGD on detections', 'retinanet', attack=REPORTED),
        Case('dino, PGD on detections', 'dino', attack=REPORTED),
    ]
    return cases + harmless_changes()


def harmless_changes() -> list[Case]:
    """What looks like a defence, or a defect, and is none: attacks reach as far.

    Losses of another temperature do not saturate, and a loss that is rounded keeps a
    slope that is small and right. What only sorts out detections after scores (a
    threshold, NMS) hides no gradient.
    """
    made = {
        'sharp losses': more_models.losses_sharp,
        'soft losses': more_models.losses_soft,
        'rounded loss': models.loss_rounded,
        'high threshold': more_models.high_threshold,
        'strict NMS': more_models.strict_suppression,
    }
    return [Case(f'fcos, {name}', plant=plant) for name, plant in made.items()]


def broken_gradients() -> list[Case]:
    """Gradients that are missing, wrong or hidden."""
    wrong, hidden = ('gradient_wrong',), ('objective_jagged', 'gradient_wrong')
    blind = ('blocked', 'zero_gradients', *hidden)
    made = [
        ('level 0 detached', models.level_detached, wrong),
        ('level 2 detached', partial(models.level_detached, level=2), wrong),
        ('levels 0 to 3 detached', models.all_levels_detached_but_last, wrong),
        ('backbone.layer3 under no_grad', models.backbone_without_grad, wrong),
        ('backbone under no_grad', models.whole_backbone_without_grad, blind),
        ('sign flipped on all levels', models.sign_flipped, wrong),
        ('sign flipped on level 1', partial(models.sign_flipped, levels=(1,)), wrong),
        ('level 3 weighs 100 times', models.level_overweighted, wrong),
        ('head detached in part', models.head_detached, wrong),
        ('noise on gradients', models.gradient_noise, wrong),
        ('gradient of a blurred image', models.gradient_of_blurred, wrong),
        ('pixels rounded', models.pixels_rounded, blind),
        ('pixels rounded in part', models.pixels_rounded_in_part, hidden),
        ('features rounded', models.features_rounded, blind),
        ('JPEG', models.jpeg, blind),
        ('shattered', models.shattered, hidden),
        ('blurred, straight through', more_models.blurred_straight_through, wrong),
        ('rounded, straight through', more_models.rounded_straight_through, hidden),
        ('pixels clipped', more_models.pixels_clipped, ('zero_gradients',)),
        ('infinite slopes', models.not_a_number, ('nonfinite_gradients',)),
    ]
    cases = [Case(name, 'fcos', codes, plant) for name, plant, codes in made]
    return cases + gradients_of_other_detectors() + flat_losses()


def gradients_of_other_detectors() -> list[Case]:
    """Gradients that are cut, of more than FCOS."""
    wrong = ('gradient_wrong',)
    return [
        Case(
            'faster-rcnn, level 0 detached', 'faster-rcnn', wrong, models.level_detached
        ),
        Case(
            'retinanet, level 1 detached',
            'retinanet',
            wrong,
            partial(models.level_detached, level=1),
            APGD,
        ),
    ]


def flat_losses() -> list[Case]:
    """Losses that say nothing, next to nothing, or are lost in rounding."""
    blind = ('blocked', 'zero_gradients', 'objective_jagged', 'gradient_wrong')
    lost = ('objective_not_raised', 'objects_ignored')
    made = [
        ('flat loss', models.loss_flat, blind),
        ('saturated loss', models.loss_saturated, (*blind, 'gradient_hidden')),
        ('loss with a constant', more_models.loss_with_constant, lost),
    ]
    return [Case(name, 'fcos', codes, plant) for name, plant, codes in made]


def other_functions() -> list[Case]:
    """Models that answer attacks otherwise than tests."""
    grad, attack = ('other_with_gradients',), ('other_under_attack',)
    other = (*grad, *attack)
    made = [
        ('blurred with gradients on', models.blurred_with_gradients, other),
        ('blurred with gradients off', models.blurred_without_gradients, other),
        ('another loss with gradients on', models.other_loss_with_gradients, grad),
        ('dropout under attack', models.dropout_under_attack, attack),
        ('batch statistics under attack', models.batch_statistics_under_attack, attack),
        (
            'normalised otherwise with gradients on',
            models.other_normalisation_under_attack,
            other,
        ),
        (
            'normalised otherwise in losses',
            models.other_normalisation_in_losses,
            attack,
        ),
        ('purified in tests only', models.purified_in_tests_only, attack),
        ('other scores in losses', more_models.other_head_in_losses, attack),
        ('views averaged in tests only', more_models.views_averaged, attack),
        ('views merged in tests only', more_models.views_merged, attack),
        ('fractions of pixels blurred', more_models.blurred_floats, attack),
        ('noise without a seed', models.noise_of_its_own, ('noise_without_seed',)),
        ('fresh noise, one pass', models.fresh_noise, ('randomised',)),
    ]
    cases = [Case(name, 'retinanet', codes, plant) for name, plant, codes in made]
    return cases + other_predictions()


def other_predictions() -> list[Case]:
    """Tests that are not of the image alone."""
    reads, stuck = ('reads_truth',), ('predictions_stuck',)
    return [
        Case('detections cached', 'retinanet', stuck, more_models.detections_cached),
        Case('detections kept by looks', 'fcos', stuck, more_models.kept_by_looks),
        Case('truth reported', 'retinanet', reads, more_models.truth_reported),
        Case('classes of the truth', 'fcos', reads, more_models.truth_helps),
    ]


def other_truths() -> list[Case]:
    """Losses that know other objects than the metric."""
    ignored, misplaced = ('objects_ignored',), ('truth_at_other_scale',)
    return [
        Case('every other object', 'fcos', ignored, models.every_other_object),
        Case('first half of objects', 'fcos', ignored, models.first_half_of_objects),
        Case('largest object only', 'faster-rcnn', ignored, models.largest_object_only),
        Case('boxes at half scale', 'fcos', misplaced, models.boxes_at_half_scale),
        Case(
            'boxes at twice the scale',
            'retinanet',
            misplaced,
            models.boxes_at_twice_the_scale,
        ),
        Case('classes shifted', 'fcos', ('other_truth',), more_models.classes_shifted),
        Case('scale of the file', 'fcos', misplaced, gt_scale='input'),
    ]


def broken_attacks() -> list[Case]:
    """Attacks that do not do what they say."""
    weak = ('objective_not_raised', 'gradient_hidden', 'gradients_lead_nowhere')
    weak = (*weak, 'weaker_than_noise', 'not_converged')
    made = [
        ('Descending', weak),
        ('Guessing', weak),
        ('Hasty', weak),
        ('Shy', ('budget_unused', *weak)),
        ('Unbounded', ('left_budget',)),
        ('OffRange', ('left_pixel_range', 'left_budget')),
        ('Forgetful', ('few_changed', 'not_as_reported')),
        ('Shuffled', (*weak, 'not_as_reported')),
        ('PartTime', ('not_as_reported',)),
        ('Early', ('not_as_reported',)),
        ('EarlyHonest', ('not_as_reported',)),
        ('Normalised', ('budget_unused',)),
    ]
    cases = [
        Case(
            f'attack: {name}',
            'retinanet',
            codes,
            None,
            {**PGD, 'type': f'mmdiff.{name}'},
        )
        for name, codes in made
    ]
    settings = {
        'steps of 0.05': {'step_size': 0.05},
        'steps of 64': {'step_size': 64},
        'two steps': {'steps': 2},
    }
    cases += [
        Case(f'attack: {name}', 'fcos', weak, None, {**PGD, **changed})
        for name, changed in settings.items()
    ]
    return cases + attacks_on_padding()


def attacks_on_padding() -> list[Case]:
    """Attacks that change what the pipeline padded."""
    padding = ('attacked_padding',)
    on_padding = {**PGD, 'type': 'mmdiff.OnPadding'}
    return [
        Case('attack: OnPadding', 'fcos', padding, None, on_padding, padded=True),
        Case('padding as image', 'fcos', padding, padded=True, all_is_image=True),
    ]


def all_cases() -> list[Case]:
    """Healthy cases first."""
    broken = broken_gradients() + other_functions() + other_truths() + broken_attacks()
    return healthy_cases() + broken
