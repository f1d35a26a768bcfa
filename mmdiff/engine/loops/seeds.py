"""Seeds of what a randomised model draws in a test."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from mmdiff.utils.modules import seed_all
from mmdiff.utils.seeding import mix_seed


def batch_seed(run: str, first_image: int, seed: int = 0) -> int:
    """Seed of the global generators while a batch is predicted.

    What is drawn is another noise in every run, batch and evaluation, and the same one
    when the run is resumed, whatever came before. An attack draws by seeds of its own
    (:meth:`mmdiff.attacks.Attack.seed_of`): what it saw is not what it is measured on.

    Args:
        run: Name of the run: ``'clean'``, the key of the attack's row, with several
            restarts ``'KEY restart 0'``.
        first_image: Number of the first image of the batch, from 0.
        seed: Seed of the evaluation, as ``robustness.json`` records it. 0 gives what a
            test of one evaluation draws.

    Example:
        >>> batch_seed('clean', 0, 1) != batch_seed('clean', 0, 2)
        True
    """
    return mix_seed(run, first_image, seed) if seed else mix_seed(run, first_image)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, NumPy and Python, and put their states back at the end."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            seed_all(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
