"""Try every attack on one image, before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from logging import Logger

from mmdiff.attacks import Attack, GradientBlocked, NotApplicable, Oracle
from mmdiff.evaluation.results import LeftOut

from ..ground_truth import truth_needed
from .robust_plan import make_entry, with_settings


def try_attacks(
    attacks: Sequence[Attack],
    oracle: Oracle,
    batch: dict,
    leave_out: bool,
    logger: Logger,
) -> tuple[list[Attack], list[LeftOut]]:
    """Take one step of every attack on a batch: the head may not serve the objective.

    Args:
        attacks: The attacks.
        oracle: Oracle of the model.
        batch: Batch of one image.
        leave_out: Leave out what has no meaning for the model, instead of failing.
        logger: Logger that is told what is left out.

    Returns:
        Attacks that can be run, and those that are left out.

    Raises:
        ValueError: If an attack cannot be run, or none is left.
    """
    applicable: list[Attack] = []
    left_out: list[LeftOut] = []
    for attack in attacks:
        try:
            one_step = with_settings(attack, steps=1, restarts=1, eot=1)
            with truth_needed(batch['data_samples'][0]), suppress(GradientBlocked):
                result = one_step.run(oracle, batch)
                if not result.stats.images:  # its mask is empty on this image
                    replace(one_step, mask=None).run(oracle, batch)
        except NotApplicable as error:
            if not leave_out:
                raise
            label = make_entry(attack).label
            left_out.append(LeftOut(label, str(error)))
            logger.warning(f'{label} is left out: {error}')
        else:
            applicable.append(attack)
    if attacks and not applicable:
        raise ValueError(f'No attack is left for this model: {left_out[0].reason}')
    return applicable, left_out
