"""What one run over the images found, in memory and on disk."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mmdiff.attacks import AttackStats
from mmdiff.evaluation.robustness import merge_stats

VERSION = 2  # of the files below
FIELDS = ('bboxes', 'scores', 'labels')


@dataclass
class RobustRecord:
    """Of some images, in order: what was detected and what it cost.

    Files hold tensors only (safetensors): loading runs no code. They appear whole or
    not at all.

    Args:
        detections: ``bboxes`` (K, 4), ``scores`` and ``labels`` (K,) of each image.
        loss: Final objective of each image, (N,); NaN where there is none.
        ap: Of each image (see :func:`mmdiff.evaluation.image_ap`), (N,).
        stats: Of the attack.
        seconds: Spent, on all ranks together.
        peak_mem: Most memory held, in bytes; on a CPU by the process until then.
        blocked: Images whose gradient could not be had: detections are the clean ones.
    """

    detections: list[dict[str, Tensor]]
    loss: np.ndarray
    ap: np.ndarray
    stats: AttackStats
    seconds: float = 0.0
    peak_mem: int = 0
    blocked: int = 0

    def save(self, path: Path, run: str) -> None:
        """Write a file that says which run it is of."""
        tensors = {
            name: torch.cat([found[name] for found in self.detections])
            for name in FIELDS
        }
        tensors['count'] = torch.tensor([len(d['scores']) for d in self.detections])
        tensors['loss'] = torch.as_tensor(self.loss, dtype=torch.float64)
        tensors['ap'] = torch.as_tensor(self.ap, dtype=torch.float64)
        stats = asdict(self.stats)
        losses = stats.pop('losses')
        pairs = torch.tensor(list(losses.items()), dtype=torch.float64)
        tensors['losses'] = pairs.reshape(len(losses), 2)
        numbers = {**stats, **{k: getattr(self, k) for k in _NUMBERS}}
        for name, value in numbers.items():
            kind = torch.float64 if isinstance(value, float) else torch.int64
            tensors[f'number.{name}'] = torch.tensor(value, dtype=kind)
        partial = path.with_suffix(f'.{os.getpid()}.partial')
        tensors = {k: v.contiguous() for k, v in tensors.items()}
        save_file(tensors, partial, dict(run=run))
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path, images: int, run: str) -> 'RobustRecord | None':
        """Read a file of so many images; ``None`` if it is damaged or not there.

        Raises:
            ValueError: If it is of another run.
        """
        try:
            with safe_open(path, 'pt') as file:
                found = (file.metadata() or {}).get('run')
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError):
            return None
        if found != run:
            raise ValueError(
                f'{path} is a file of another run ({found}, not {run}); move it away '
                'or start anew with --fresh.'
            )
        try:
            counts = tensors['count'].tolist()
            parts = [tensors[name].split(counts) for name in FIELDS]
            numbers = {
                key.removeprefix('number.'): value.item()
                for key, value in tensors.items()
                if key.startswith('number.')
            }
            rest = {name: numbers.pop(name) for name in _NUMBERS}
            losses = {int(k): v for k, v in tensors['losses'].tolist()}
            record = cls(
                [dict(zip(FIELDS, found)) for found in zip(*parts)],
                tensors['loss'].numpy(),
                tensors['ap'].numpy(),
                AttackStats(**numbers, losses=losses),
                **rest,
            )
        except (KeyError, RuntimeError, TypeError):
            return None
        whole = len(counts) == len(record.loss) == len(record.ap) == images
        return record if whole else None

    @classmethod
    def join(cls, parts: Sequence['RobustRecord']) -> 'RobustRecord':
        return cls(
            [found for part in parts for found in part.detections],
            np.concatenate([part.loss for part in parts]),
            np.concatenate([part.ap for part in parts]),
            merge_stats(part.stats for part in parts),
            sum(part.seconds for part in parts),
            max(part.peak_mem for part in parts),
            sum(part.blocked for part in parts),
        )

    @classmethod
    def choose(
        cls, runs: Sequence['RobustRecord'], pick: Sequence[int]
    ) -> 'RobustRecord':
        """Of image ``i`` what run ``pick[i]`` found; costs are those of all runs."""
        one = cls.join(runs)
        one.detections = [runs[k].detections[i] for i, k in enumerate(pick)]
        one.loss = np.array([runs[k].loss[i] for i, k in enumerate(pick)])
        one.ap = np.array([runs[k].ap[i] for i, k in enumerate(pick)])
        return one

    @classmethod
    def worst(cls, runs: Sequence['RobustRecord']) -> 'RobustRecord':
        """Of each image the run of lowest AP, of equals the first."""
        return cls.choose(runs, np.stack([run.ap for run in runs]).argmin(0))

    @classmethod
    def ensembles(
        cls, runs: Sequence['RobustRecord'], margins: np.ndarray
    ) -> Iterator['RobustRecord']:
        """What an adversary with several attacks may do; the clean run is the first.

        Images that an attack brought to AP 0 are as the first of those left them (no
        further attack is needed). All others are, first, as the run of lowest AP left
        them, of equals the one of lowest margin: the same objects are found, but with
        lower scores or below more false ones, which counts over the set. Then, as no
        choice by image is the best one over the set: all as one attack left them.

        Args:
            runs: On the same images.
            margins: Of each run and image (:func:`mmdiff.evaluation.image_margin`).
        """
        aps = np.stack([run.ap for run in runs])
        fooled, first = aps[1:].min(0) == 0, 1 + aps[1:].argmin(0)
        tied = np.where(aps == aps.min(0), margins, np.inf).argmin(0)
        for pick in (tied, *range(1, len(runs))):
            yield cls.choose(runs, np.where(fooled, first, pick))


_NUMBERS = ('seconds', 'peak_mem', 'blocked')


def digest(what: object) -> str:
    """Hexadecimal name of anything that JSON can say."""
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def digest_weights(model: nn.Module) -> str:
    """Hexadecimal name of all parameters and buffers, also frozen ones."""
    found = hashlib.sha256()
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        found.update(f'{name} {tuple(value.shape)} {value.dtype}'.encode())
        flat = value.detach().cpu().contiguous().flatten()
        found.update(flat.view(torch.uint8).numpy())
    return found.hexdigest()[:12]
