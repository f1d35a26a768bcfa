"""Measure one cell: fit a probe, score it clean and under PGD through the model."""

from __future__ import annotations

import time as clock
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmdiff.attacks import PGD, AttackStats
from mmdiff.attacks.oracle import Oracle
from mmdiff.utils.seeding import mix_seed

from ..loops.seeds import seeded
from .features import GridFeatures
from .grid import Cell, set_point
from .images import Part
from .probe import Rows, fit_probe
from .probed_model import ProbedModel
from .results import CellResult
from .settings import SearchSettings
from .targets import Targets

# Shows progress: takes parts and what is done to them, and gives the parts.
Track = Callable[[Sequence[Part], str], Iterable[Part]]


def draw_rows(parts: Sequence[Part], seed: int) -> tuple[list[Rows], Rows]:
    """Choose the locations of images to fit probes on.

    Args:
        parts: The images.
        seed: Seed of the choice.

    Returns:
        Those of each part, and all of them with the images counted through.

    Raises:
        ValueError: If the images show one class only.
    """
    labels = [part.targets.labels.flatten(0, 1) for part in parts]
    weights = [part.targets.weights.flatten(0, 1) for part in parts]
    counted = torch.cat(labels)[torch.cat(weights) > 0]
    if len(counted.unique()) < 2:
        raise ValueError(
            'The training images to fit on show one class only, so nothing can be '
            'told apart; take more images to fit on, or a dataset with labels.'
        )
    each = [
        Rows.of(part.targets, mix_seed(seed, 'rows', k)) for k, part in enumerate(parts)
    ]
    counts = torch.tensor([0, *(len(part.numbers) for part in parts)])
    firsts = counts.cumsum(0).tolist()
    joined = Rows(
        torch.cat([rows.images + k for rows, k in zip(each, firsts)]),
        torch.cat([rows.places for rows in each]),
        torch.cat([rows.labels for rows in each]),
        torch.cat([rows.weights for rows in each]),
    )
    return each, joined


@dataclass
class Bench:
    """What cells are measured with.

    Args:
        model: Preprocessor, backbone and task.
        oracle: Its oracle.
        features: Features on disk.
        fit: Images to fit on.
        held_out: Images to measure on.
        settings: Budgets and steps of the attack.
        track: Shows progress.
    """

    model: ProbedModel
    oracle: Oracle
    features: GridFeatures
    fit: list[Part]
    held_out: list[Part]
    settings: SearchSettings
    track: Track

    def __post_init__(self) -> None:
        """Choose the locations to fit on: the same ones in every cell.

        Raises:
            ValueError: If the images to fit on show one class only.
        """
        self.rows, self.all_rows = draw_rows(self.fit, self.settings.seed)

    def measure(self, cell: Cell, along: Sequence[str]) -> CellResult:
        """Measure one cell.

        Args:
            cell: The cell.
            along: All taps whose features at this time are wanted, by other cells too:
                one pass gives them all.
        """
        start = clock.perf_counter()
        self._keep_features(cell, along)
        features = self._fit_features(cell)
        probe, penalty = fit_probe(features, self.all_rows, self.model.task.num_outputs)
        self.model.probe = probe.to(self.oracle.device)
        clean = self._clean_scores(cell)
        attacked, stats = self._attack(cell, clean)
        return CellResult(
            cell=cell,
            channels=features.shape[1],
            clean=clean,
            attacked=attacked,
            penalty=penalty,
            seconds=clock.perf_counter() - start,
            gradients=stats.grad_evals,
            zero_gradients=stats.zero_grads,
            nonfinite_gradients=stats.nonfinite_grads,
        )

    def _inputs(self, batch: dict) -> Tensor:
        """Preprocessed images of a batch, (N, 3, H, W)."""
        group = self.oracle.gather(batch)
        data = self.oracle.preprocess(group.pixels, group.samples, group.frames)
        return data['inputs']

    def _keep_features(self, cell: Cell, along: Sequence[str]) -> None:
        for part in self.track([*self.fit, *self.held_out], 'features'):
            x = self._inputs(part.batch)
            self.features.of(x, along, cell.time, cell.num_noise)

    def _maps(self, cell: Cell, part: Part) -> Tensor:
        """Features of a cell from disk, in the order of the backbone, (N, C, L)."""
        maps = self.features.of(
            self._inputs(part.batch), cell.taps, cell.time, cell.num_noise
        )
        order = set_point(self.model.backbone, cell.taps, cell.time, cell.num_noise)
        return torch.cat([maps[tap] for tap in order], 1)

    def _fit_features(self, cell: Cell) -> Tensor:
        """Features at the locations to fit on, (R, C)."""
        taken = [
            rows.take(self._maps(cell, part)) for rows, part in zip(self.rows, self.fit)
        ]
        return torch.cat(taken)

    def _clean_scores(self, cell: Cell) -> np.ndarray:
        """Score of each image to measure on, from features on disk."""
        scores = np.zeros(sum(len(part.numbers) for part in self.held_out))
        device = self.oracle.device
        for part in self.held_out:
            maps = self._maps(cell, part).to(device)
            logits = self.model.probe(maps[..., None])[..., 0]
            scores[part.numbers] = _scores(part.targets, logits)
        return scores

    def _attack(
        self, cell: Cell, clean: np.ndarray
    ) -> tuple[dict[float, np.ndarray], AttackStats]:
        """Worst score of each image within each budget, smaller budgets first.

        A smaller change, or none, is within a larger budget: what is lost stays lost.
        """
        set_point(self.model.backbone, cell.taps, cell.time, cell.num_noise)
        worst, total = clean.copy(), AttackStats()
        attacked = {}
        for eps in self.settings.eps:
            attack = PGD(
                eps,
                steps=self.settings.steps,
                eot=self.settings.eot or 1,
                seed=self.settings.seed,
            )
            for part in self.track(self.held_out, f'PGD at eps {eps:g}'):
                skip = [bool(worst[i] == 0) for i in part.numbers]
                if all(skip):
                    continue
                result = attack.run(self.oracle, part.batch, skip)
                total.add(result.stats)
                scores = self._score(part, result.inputs, cell, eps)
                worst[part.numbers] = np.minimum(worst[part.numbers], scores)
            attacked[eps] = worst.copy()
        return attacked, total

    @torch.no_grad()
    def _score(
        self, part: Part, images: Sequence[Tensor], cell: Cell, eps: float
    ) -> np.ndarray:
        """Scores of other images in the place of a part's, through the whole model."""
        x = self._inputs({**part.batch, 'inputs': images})
        seed = mix_seed(self.settings.seed, cell, eps, part.numbers[0])
        with seeded(seed):
            logits = self.model.logits(x)
        return _scores(part.targets, logits)


def _scores(targets: Targets, logits: Tensor) -> np.ndarray:
    """Score of each image, (N,), 0 to 1."""
    return targets.scores(logits.cpu()).double().numpy().clip(0, 1)
