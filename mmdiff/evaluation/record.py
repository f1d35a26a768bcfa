"""What one run over the images found, in memory and on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmdiff.attacks import AttackStats
from mmdiff.utils.files import whole_file

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 3  # of the files below


@dataclass
class RunRecord:
    """Predictions, losses and cost of one run over consecutive images.

    Files hold tensors and JSON only (safetensors): loading runs no code. They appear
    whole or not at all.

    Args:
        predictions: Named tensors for each image, on the CPU; the task's scorer says
            which (:attr:`mmdiff.evaluation.scoring.Scorer.fields`).
        loss: Final objective of each image, (N,); NaN where there is none.
        score: What each image is worth, (N,), 0..1
            (:meth:`mmdiff.evaluation.scoring.Scorer.image_score`).
        stats: Account of the attack.
        seconds: Time spent, on all ranks together.
        peak_mem: Most memory held, in bytes; on a CPU by the process until then.
        blocked: Images whose gradient could not be had: their predictions are the clean
            ones.
        rounded: Predictions for the images in whole pixel values, as a file of 8 bits
            holds them; empty in files that were written before these were asked for.
        origin: Name of the run that each image comes from; empty if nobody asks. It is
            in no file.

    Example:
        >>> import torch
        >>> predictions = [{'scores': torch.ones(2)}, {'scores': torch.ones(0)}]
        >>> record = RunRecord(predictions, np.zeros(2), np.ones(2), AttackStats())
        >>> RunRecord.join([record, record]).score.tolist()
        [1.0, 1.0, 1.0, 1.0]
    """

    predictions: list[dict[str, Tensor]]
    loss: np.ndarray
    score: np.ndarray
    stats: AttackStats
    seconds: float = 0.0
    peak_mem: int = 0
    blocked: int = 0
    rounded: list[dict[str, Tensor]] = field(default_factory=list)
    origin: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        """Whether rounding changes nothing: the images have whole pixel values."""
        pairs = zip(self.predictions, self.rounded)
        return bool(self.rounded) and all(one is other for one, other in pairs)

    def save(self, path: Path, run: str) -> None:
        """Write a file that says which run it is of."""
        import torch
        from safetensors.torch import save_file

        tensors = {
            'loss': torch.as_tensor(self.loss, dtype=torch.float64),
            'score': torch.as_tensor(self.score, dtype=torch.float64),
        }
        tensors.update(_pack(self.predictions, 'prediction', 'count'))
        if self.rounded and not self.is_whole:
            tensors.update(_pack(self.rounded, 'rounded', 'rounded_count'))
        account = {
            'run': run,
            'stats': asdict(self.stats),
            'seconds': self.seconds,
            'peak_mem': self.peak_mem,
            'blocked': self.blocked,
            'whole': self.is_whole,
        }
        with whole_file(path) as partial:
            # One entry: safetensors writes several in any order.
            save_file(tensors, partial, {'account': json.dumps(account)})

    @classmethod
    def load(cls, path: Path, num_images: int, run: str) -> RunRecord | None:
        """Read a file of so many images; ``None`` if it is damaged or not there.

        Raises:
            ValueError: If it is of another run.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, 'pt') as file:
                account = json.loads((file.metadata() or {})['account'])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (KeyError, OSError, SafetensorError, ValueError):
            return None
        written = account.pop('run', None)
        if written != run:
            raise ValueError(
                f'{path} is a file of another run ({written}, not {run}); '
                'move it away or start anew with --fresh.'
            )
        try:
            record = cls._from_tensors(tensors, account)
        except (KeyError, RuntimeError, TypeError, ValueError):
            return None
        lengths = len(record.predictions), len(record.loss), len(record.score)
        return record if set(lengths) == {num_images} else None

    @classmethod
    def _from_tensors(cls, tensors: dict[str, Tensor], account: dict) -> RunRecord:
        loss, score = tensors['loss'].numpy(), tensors['score'].numpy()
        predictions = _unpack(tensors, 'prediction', 'count', len(loss))
        if account.pop('whole', False):
            rounded = list(predictions)
        elif any(key.startswith('rounded.') for key in tensors):
            rounded = _unpack(tensors, 'rounded', 'rounded_count', len(loss))
        else:
            rounded = []
        stats = AttackStats(**account.pop('stats'))
        stats.losses = {int(step): value for step, value in stats.losses.items()}
        return cls(predictions, loss, score, stats, **account, rounded=rounded)

    @classmethod
    def join(cls, parts: Sequence[RunRecord]) -> RunRecord:
        """Put records of consecutive images together."""
        return cls(
            [prediction for part in parts for prediction in part.predictions],
            np.concatenate([part.loss for part in parts]),
            np.concatenate([part.score for part in parts]),
            AttackStats.sum(part.stats for part in parts),
            sum(part.seconds for part in parts),
            max(part.peak_mem for part in parts),
            sum(part.blocked for part in parts),
            _joined([part.rounded for part in parts]),
            _joined([part.origin for part in parts]),
        )

    @classmethod
    def choose(
        cls, runs: Sequence[RunRecord], pick: Sequence[int] | np.ndarray
    ) -> RunRecord:
        """Take of image ``i`` what run ``pick[i]`` left; costs are those of all runs.

        Args:
            runs: Records of runs on the same images.
            pick: Number of a run for each image.
        """
        chosen = cls.join(runs)
        chosen.predictions = [runs[k].predictions[i] for i, k in enumerate(pick)]
        chosen.loss = np.array([runs[k].loss[i] for i, k in enumerate(pick)])
        chosen.score = np.array([runs[k].score[i] for i, k in enumerate(pick)])
        if chosen.rounded:
            chosen.rounded = [runs[k].rounded[i] for i, k in enumerate(pick)]
        if chosen.origin:
            chosen.origin = [runs[k].origin[i] for i, k in enumerate(pick)]
        return chosen

    def objective_start(self) -> float | None:
        """Objective before the first step, summed over images; ``None`` without one."""
        losses = self.stats.losses
        return losses[min(losses)] if losses else None


def _pack(
    predictions: Sequence[Mapping[str, Tensor]], name: str, count: str
) -> dict[str, Tensor]:
    """Tensors of a file: those of all images in a row, and how many are whose."""
    import torch

    tensors = {}
    for key in predictions[0]:
        parts = [prediction[key] for prediction in predictions]
        tensors[f'{name}.{key}'] = torch.cat(parts).contiguous()
        tensors[f'{count}.{key}'] = torch.tensor([len(part) for part in parts])
    return tensors


def _unpack(
    tensors: Mapping[str, Tensor], name: str, count: str, num_images: int
) -> list[dict[str, Tensor]]:
    """Read what :func:`_pack` gave.

    Raises:
        KeyError, RuntimeError, ValueError: If it is damaged.
    """
    predictions: list[dict[str, Tensor]] = [{} for _ in range(num_images)]
    for key, values in tensors.items():
        if key.startswith(f'{name}.'):
            field_name = key.removeprefix(f'{name}.')
            parts = values.split(tensors[f'{count}.{field_name}'].tolist())
            if len(parts) != num_images:
                raise ValueError(f'{field_name} is of {len(parts)} images')
            for prediction, part in zip(predictions, parts):
                prediction[field_name] = part
    return predictions


def _joined(parts: Sequence[list]) -> list:
    """Lists of all images in a row; empty if one of them is not known."""
    return [one for part in parts for one in part] if all(parts) else []
