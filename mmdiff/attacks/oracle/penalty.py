"""An objective less a multiple of the denoising error of the attacked image."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import NotApplicable
from ..objectives.lagrange import Lagrange
from .frame import ImageGroup
from .kinds import attacked_part, behind_shield, kinds_of

if TYPE_CHECKING:
    from .base import Oracle

Penalty = Callable[[ImageGroup, Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class PenalisedGoal:
    """What :class:`Lagrange` is of one model.

    Args:
        oracle: Who is asked for the inner objective: the oracle of the model, or that
            of the model without its shield.
        goal: The inner objective (:meth:`Oracle.goal_of`).
        penalty: Returns what is taken off it for each image, (N,), differentiable,
            from the images with their frames, and iterates (C, H, W) in 0..255.
    """

    oracle: Oracle
    goal: Any
    penalty: Penalty


def penalised_goal(oracle: Oracle, settings: Lagrange) -> PenalisedGoal:
    """Find the prior of a model, and what of the model is asked.

    Raises:
        NotApplicable: If the model has no prior that tells denoising errors, no shield
            to leave out, or no such inner objective.
        ValueError: If the prior has no such noise levels.
    """
    goal = oracle.goal_of(settings.inner)
    penalty = _penalty(oracle, settings)
    asked = oracle if settings.through_shield else _without_shield(oracle)
    return PenalisedGoal(asked, goal, penalty)


def _penalty(oracle: Oracle, settings: Lagrange) -> Penalty:
    """Return the penalty by the prior that is in front of a model, or in it."""
    wanted = settings.num_levels, settings.times, settings.noise_seed
    if _has_shield(oracle):
        shield = oracle.tested.data_preprocessor
        of_shield = shield.purifier.denoising_error(*wanted)

        def before_shield(group: ImageGroup, pixels: Sequence[Tensor]) -> Tensor:
            images = [frame.paste(x) for frame, x in zip(group.frames, pixels)]
            return settings.multiplier * shield.measure(images, of_shield)

        return before_shield
    of_model = _owner(oracle).denoising_error(*wanted)

    def before_model(group: ImageGroup, pixels: Sequence[Tensor]) -> Tensor:
        batch = oracle.preprocess(pixels, group.samples, group.frames)
        return settings.multiplier * of_model(batch['inputs'])

    return before_model


def _has_shield(oracle: Oracle) -> bool:
    return 'PurifiedModel' in kinds_of(oracle.tested)


def _owner(oracle: Oracle) -> Any:
    """Return the part of a model without a shield that has a prior.

    Raises:
        NotApplicable: If there is none, or it was trained to be another thing.
    """
    backbone = getattr(oracle.model, 'backbone', None)
    for part in (oracle.model, backbone):
        if 'DiffusionUNet' in kinds_of(part) and not part.frozen:
            raise NotApplicable(
                "objective 'lagrange' needs a diffusion prior, and the DiffusionUNet "
                'of this model is trained along (frozen=False): put a shield '
                '(mmdiff.PurifiedModel) in front of the model, or take the inner '
                'objective alone.'
            )
        if hasattr(part, 'denoising_error'):
            return part
    raise NotApplicable(
        "objective 'lagrange' needs a diffusion prior, and "
        f'{type(oracle.model).__name__} has none: put a shield '
        '(mmdiff.PurifiedModel) in front of it, or take the inner objective alone.'
    )


def _without_shield(oracle: Oracle) -> Oracle:
    """Return an oracle of the model behind the shield, in the state of this one.

    Raises:
        NotApplicable: If there is no shield.
    """
    if not _has_shield(oracle):
        raise NotApplicable(
            'through_shield=False is of a model behind a shield '
            f'(mmdiff.PurifiedModel), and {type(oracle.model).__name__} has none: '
            'leave through_shield out.'
        )
    bare = copy.copy(oracle)
    bare.tested = behind_shield(oracle.tested)
    bare.model, bare.preprocessor = attacked_part(bare.tested)
    return bare
