"""Features on the grid of a probe, computed once per tap and time and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmdiff.utils.seeding import mix_seed

from ..feature_cache import FeatureCache
from ..loops.seeds import seeded
from .grid import set_point
from .probed_model import ProbedModel


class GridFeatures:
    """Features of images on the grid of a task, by tap.

    Entries are of one image and one tap, so combinations of taps cost nothing more, and
    a search that goes on with other taps finds those it had. One pass of the network
    gives all taps that are missing.

    Args:
        model: Backbone and task.
        folder: Where features are kept.
        max_gb: Limit of the folder, in units of 1e9 bytes.
        seed: Of fresh noise, of which one draw is kept.
    """

    def __init__(
        self, model: ProbedModel, folder: Path, max_gb: float, seed: int
    ) -> None:
        self.model = model
        self.cache = FeatureCache(folder, 'fp32', max_gb)
        self.seed = seed

    @torch.no_grad()
    def of(
        self, x: Tensor, taps: Sequence[str], time: int | float, num_noise: int
    ) -> dict[str, Tensor]:
        """Features of preprocessed images, (N, C, L) on the CPU, by tap.

        Args:
            x: Images, (N, 3, H, W).
            taps: Names of taps.
            time: Timestep or sigma.
            num_noise: Noises to average over.
        """
        names = {tap: self._names(x, tap, time, num_noise) for tap in taps}
        store = self.cache.store
        known: dict[str, Tensor] = {}
        for tap in taps:
            entries = [store.get(name) for name in names[tap]]
            values = [entry[0] for entry in entries if entry is not None]
            if len(values) == len(x):
                known[tap] = torch.stack(values)
        missing = [tap for tap in taps if tap not in known]
        if missing:
            known.update(self._compute(x, missing, time, num_noise))
        for tap in missing:
            for name, value in zip(names[tap], known[tap]):
                store.put(name, [value.clone()])
        return known

    def _names(
        self, x: Tensor, tap: str, time: int | float, num_noise: int
    ) -> list[str]:
        """Names of the entries of images for one tap."""
        backbone = self.model.backbone
        set_point(backbone, [tap], time, num_noise)
        rows, columns = self.model.task.grid_of(x.shape[-2:])
        kept = [f'means on a grid of {rows} x {columns}']
        if not backbone.gives_constant_features:
            kept.append(f'drawn by seed {self.seed}')
        return self.cache.names(backbone, x, kept)

    def _compute(
        self, x: Tensor, taps: Sequence[str], time: int | float, num_noise: int
    ) -> dict[str, Tensor]:
        """Run the network once for all of the taps, (N, C, L) each."""
        order = set_point(self.model.backbone, taps, time, num_noise)
        # The first image names what fresh noise is drawn for the batch.
        seed = mix_seed(self.seed, time, num_noise, float(x[0].sum()))
        with seeded(seed):
            maps = self.model.maps(x)
        return {tap: value.flatten(2).cpu() for tap, value in zip(order, maps)}
