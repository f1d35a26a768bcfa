"""Batches of a run: their data, and the files that keep what was found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mmdiff.evaluation.record import RunRecord

Predictions = list[dict[str, Tensor]]
# Of a batch, and of the same images in whole pixel values.
Answer = tuple[Predictions, Predictions]


@dataclass
class Batch:
    """A batch of a run, and the file that keeps what it found.

    Args:
        span: Numbers of its images.
        file: The file.
        name: What the file must say that it is of.
    """

    span: range
    file: Path
    name: str

    def load(self) -> RunRecord | None:
        """Read the file; ``None`` if it is damaged or not there."""
        return RunRecord.load(self.file, len(self.span), self.name)

    def evaluation(self, seed: int) -> Batch:
        """The file of one evaluation; the first one has the batch's own."""
        if seed == 0:
            return self
        file = self.file.with_stem(f'{self.file.stem}-evaluation{seed}')
        return Batch(self.span, file, f'{self.name}-evaluation{seed}')

    def load_all(self, evaluations: int) -> RunRecord | None:
        """Read the files of all evaluations; ``None`` if one cannot be had."""
        records = []
        for seed in range(evaluations):
            record = self.evaluation(seed).load()
            if record is None:
                return None
            records.append(record)
        first, *first.others = records
        return first

    def save_all(self, record: RunRecord) -> None:
        """Write the files of all evaluations."""
        for seed, one in enumerate(record.evaluations):
            part = self.evaluation(seed)
            one.save(part.file, part.name)


def copied(data: dict[str, Any]) -> dict[str, Any]:
    """Copy inputs and data samples of a batch: a model may write into both."""
    inputs = data['inputs']
    if isinstance(inputs, Tensor):
        inputs = inputs.clone()
    else:
        inputs = [x.clone() for x in inputs]
    samples = [sample.clone() for sample in data['data_samples']]
    return {**data, 'inputs': inputs, 'data_samples': samples}


def untouched(clean: RunRecord, span: range) -> Answer:
    """What the clean run answered on some images."""
    answers = [clean.predictions[i] for i in span]
    return answers, clean.rounded[span.start : span.stop]


def take_over(record: RunRecord, worst: RunRecord, images: Iterable[int]) -> None:
    """Put what earlier attacks left of some images in the place of what is there."""
    for i in images:  # files have what was found without an attack
        record.predictions[i], record.score[i] = worst.predictions[i], 0.0
        record.origin[i] = worst.origin[i]
        if not worst.rounded:
            record.rounded = []
        elif record.rounded:
            record.rounded[i] = worst.rounded[i]
