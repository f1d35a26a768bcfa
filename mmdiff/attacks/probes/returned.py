"""What an attack handed on, looked at again: whatever its own account says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmdiff.utils.modules import seed_all

from ..iterative_attack import IterativeAttack
from ..oracle.frame import scale_of
from ..result import AttackResult, AttackStats

if TYPE_CHECKING:
    from ..attack import Attack
    from ..oracle import Oracle, Question

# Relative difference of an objective asked twice of one image that is rounding.
SAME = 1e-3
# The same where the image was rounded to whole pixel values after it was asked: by half
# a value at most, which is a quarter of a budget of 2 and a sixteenth of one of 8.
ROUNDED = 0.2
# The same of two draws of a model without noise: its passes are the same, but for what
# an unsteady algorithm of a GPU sums otherwise.
NO_NOISE = 1e-5


def attack_and_look(
    attack: Attack, oracle: Oracle, batch: dict, skip: Sequence[bool]
) -> AttackResult:
    """Attack a batch (:meth:`Attack.run`), and look at what the attack hands on."""
    result = attack.run(oracle, batch, skip)
    look_at_returned(oracle, attack, batch, result)
    return result


def look_at_returned(
    oracle: Oracle, attack: Attack, batch: dict, result: AttackResult
) -> None:
    """Measure what an attack handed on, and ask for its objective again.

    Sizes of changes are taken from the images that go to the model, the size of an
    image from that of its file, and the objective from the model. What is found worse
    than the attack's account takes its place there.

    Args:
        oracle: Oracle of the model under test.
        attack: The attack.
        batch: The batch that it was given.
        result: What it handed on; its account takes what is found.
    """
    clean = [x.float() for x in batch['inputs']]
    returned = [x.to(y) for x, y in zip(result.inputs, clean)]
    seen, stats = AttackStats(), result.stats
    seen.record_images(clean, returned)
    stats.changed = min(stats.changed, seen.changed)
    for name in ('max_delta', 'max_l2', 'pixel_max'):
        setattr(stats, name, max(getattr(stats, name), getattr(seen, name)))
    stats.pixel_min = min(stats.pixel_min, seen.pixel_min)
    beyond = [attack.budget.beyond(adv, x) for x, adv in zip(clean, returned)]
    stats.max_beyond = max([stats.max_beyond, *beyond])
    samples = batch['data_samples']
    stats.padding_changed += sum(
        leaves_image((adv - x).abs().amax(0) > 0, sample.metainfo)
        for x, adv, sample in zip(clean, returned, samples)
    )
    if isinstance(attack, IterativeAttack) and attack.eps:
        _ask_again(attack.choose_oracle(oracle), attack, batch, result)


def leaves_image(changed: Tensor, meta: dict[str, Any]) -> bool:
    """Whether more is changed than an image of this file can cover.

    Where an image lies on its canvas is left open, if it may be elsewhere than at the
    top left: the extent of the change has to be that of the image, or less.

    Args:
        changed: Flags of pixels, (H, W).
        meta: Meta information of the data sample. Without the size of the file, and by
            how much it was scaled, there is nothing to compare with.
    """
    size, scale = meta.get('ori_shape'), scale_of(meta)
    if size is None or scale is None or not changed.any():
        return False
    width, height = scale
    fixed = meta.get('pad_param') is None and meta.get('border') is None
    for axis, side in ((1, size[0] * height), (0, size[1] * width)):
        places = changed.any(axis).nonzero().flatten()
        first = 0 if fixed else int(places.min())
        # Rounding of sizes is allowed one pixel.
        if int(places.max()) + 1 - first > side + 1:
            return True
    return False


def _ask_again(
    oracle: Oracle, attack: IterativeAttack, batch: dict, result: AttackResult
) -> None:
    """Count images whose objective is not the one that the attack reports."""
    images, spent = oracle.gather(batch), AttackStats()
    asked = [i for i, loss in enumerate(result.losses) if math.isfinite(loss)]
    with oracle.attacked():
        for chosen in oracle.split(images, asked):
            group = images.take(chosen)
            question = oracle.ask(
                group,
                spent,
                attack.seed_of,
                attack.objective,
                attack.proposals,
                attack.eot,
            )
            pixels = []
            for i, frame in zip(chosen, group.frames):
                canvas = result.inputs[i].to(frame.canvas)
                pixels.append(type(frame)(canvas, frame.region).cut())
            reported = [result.losses[i] for i in chosen]
            _compare(question, pixels, reported, attack, result.stats)


def _compare(
    question: Question,
    pixels: Sequence[Tensor],
    reported: Sequence[float],
    attack: IterativeAttack,
    stats: AttackStats,
) -> None:
    """Compare objectives of these images with those that were reported of them."""
    tolerance = ROUNDED if attack.quantize else SAME
    restart = attack.restart_offset  # targets may be another one's
    seed_all(0)
    losses = question.losses(pixels, restart, 0).tolist()
    others = [_differ(*pair, tolerance) for pair in zip(losses, reported)]
    if any(others):
        # With fresh noise an objective is another one at each step.
        again = question.losses(pixels, restart, 1).tolist()
        if any(_differ(*pair, NO_NOISE) for pair in zip(losses, again)):
            return
    stats.asked_again += len(losses)
    stats.misreported += sum(others)


def _differ(first: float, second: float, tolerance: float) -> bool:
    size = max(abs(first), abs(second), 1e-6)
    return not abs(first - second) <= tolerance * size
