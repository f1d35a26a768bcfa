"""What a detector reports on noisy copies of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass
class NoisyDetections:
    """Detections of all noisy copies of one image, on the CPU.

    Args:
        copies: Number of copies; one without a detection counts, too.
        copy: Number of the copy of each detection, (D,).
        bboxes: Corners x1, y1, x2, y2 of each, in pixels of the image as its file has
            it, (D, 4).
        scores: Score of each, (D,).
        labels: Class of each, (D,).
    """

    copies: int
    copy: Tensor
    bboxes: Tensor
    scores: Tensor
    labels: Tensor

    @classmethod
    def none(cls) -> NoisyDetections:
        """No copies yet."""
        whole = torch.zeros(0, dtype=torch.long)
        return cls(0, whole, torch.zeros(0, 4), torch.zeros(0), whole.clone())

    @classmethod
    def of(cls, samples: Sequence[Any], lowest: float) -> NoisyDetections:
        """Read the detections of copies off their data samples.

        Args:
            samples: Data samples with ``pred_instances``, one for each copy.
            lowest: Detections of a lower score are left out, and so are boxes with a
                coordinate that is no finite number.

        Raises:
            ValueError: If a detector reports no upright boxes.
        """
        parts = []
        for number, sample in enumerate(samples):
            told = sample.pred_instances
            boxes = getattr(told.bboxes, 'tensor', told.bboxes)
            if boxes.shape[-1] != 4:
                raise ValueError(
                    f'Boxes of {boxes.shape[-1]} values are not upright ones of four '
                    'coordinates, which medians are taken of; take a detector of such.'
                )
            # A coordinate that is no number has no place in an order.
            kept = (told.scores >= lowest) & boxes.isfinite().all(-1)
            labels = told.labels[kept].cpu().long()
            boxes, scores = boxes[kept].cpu().float(), told.scores[kept].cpu().float()
            copy = torch.full_like(labels, number)
            parts.append(cls(1, copy, boxes, scores, labels))
        return cls._join(parts, len(parts))

    @classmethod
    def _join(cls, parts: Sequence[NoisyDetections], copies: int) -> NoisyDetections:
        return cls(
            copies,
            torch.cat([part.copy for part in parts]),
            torch.cat([part.bboxes for part in parts]),
            torch.cat([part.scores for part in parts]),
            torch.cat([part.labels for part in parts]),
        )

    def and_then(self, more: NoisyDetections) -> NoisyDetections:
        """Add the copies of ``more`` after those here."""
        moved = NoisyDetections(
            more.copies, more.copy + self.copies, more.bboxes, more.scores, more.labels
        )
        return self._join([self, moved], self.copies + more.copies)

    def first(self, copies: int) -> NoisyDetections:
        """Keep the first of the copies."""
        return self._take(self.copy < copies, min(copies, self.copies))

    def above(self, threshold: float) -> NoisyDetections:
        """Keep the detections of at least this score."""
        return self._take(self.scores >= threshold, self.copies)

    def _take(self, chosen: Tensor, copies: int) -> NoisyDetections:
        return NoisyDetections(
            copies,
            self.copy[chosen],
            self.bboxes[chosen],
            self.scores[chosen],
            self.labels[chosen],
        )
