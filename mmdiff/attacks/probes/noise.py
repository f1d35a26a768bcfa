"""What luck alone does to an objective."""

from __future__ import annotations

import torch

from mmdiff.utils.modules import seed_all

from ..iterative_attack import IterativeAttack
from ..oracle import Oracle
from ..result import AttackStats
from .findings import ObjectiveProbe

DRAWS = 8


def probe_noise(
    oracle: Oracle, batch: dict, attack: IterativeAttack, probe: ObjectiveProbe
) -> None:
    """Note by how much the luckiest of some noise raises an attack's objective.

    An attack that keeps the best of its iterates raises its objective by luck, too.

    Args:
        oracle: Oracle of the model.
        batch: A batch of a few images, as the dataloader gives it.
        attack: Whose objective and budget are asked.
        probe: Takes the mean rise over the images.
    """
    images, stats, rises = attack.gather(oracle, batch), AttackStats(), []
    with oracle.attacked():
        for i, image_id in enumerate(images.ids):
            if not images.frames[i].mask_share:
                continue  # nor is it attacked
            question = oracle.ask(
                images.take([i]),
                stats,
                attack.seed_of,
                attack.objective,
                attack.proposals,
            )
            (x,), (mask,) = question.group.pixels, question.group.masks
            seed = attack.seed_of(image_id, 'noise')
            generator = torch.Generator().manual_seed(seed)
            losses = []
            for draw in range(1 + DRAWS):
                noise = 0
                if draw:
                    noise = attack.budget.sample_edge(x, generator, mask)
                seed_all(seed)
                adv = attack.budget.project(x + noise, x)
                losses.append(question.losses([adv], 0, 0).item())
            rises.append(max(losses[1:]) - losses[0])
    probe.noise_rise[str(attack.budget)] = sum(rises) / max(len(rises), 1)
    probe.passes += stats.queries
