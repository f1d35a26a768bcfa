"""Class logits of a fixed set of boxes, for attacks on what a detector sees there."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor, nn

# Predictions of the head at most that are compared with the proposals.
COMPARED = 100


class Proposals(ABC):
    """Boxes found once on the clean image, and their class logits on any other.

    The last column of the logits is background.

    Args:
        boxes: (P, 4), x1 y1 x2 y2 at the scale of the input.
    """

    def __init__(self, boxes: Tensor) -> None:
        self.boxes = boxes

    @abstractmethod
    def logits(self, batch: dict) -> Tensor:
        """(P, num_classes + 1) on the one image of a preprocessed batch."""

    def scores(self, logits: Tensor) -> Tensor:
        """Class scores of logits."""
        return logits.softmax(-1)

    @abstractmethod
    def keep(self, mask: Tensor) -> None:
        """Forget the boxes outside ``mask``."""


class PredictionProposals(Proposals):
    """All predictions of a head that gives each its own class logits and one box.

    A head with sigmoid scores has no background class: there a box shows background if
    no class passes the ``score_thr`` of the model's ``test_cfg``. Without a
    ``score_thr`` (the relatives of DETR) it never does.

    Args:
        model: The detector, in eval mode.
        boxes: (P, 4), x1 y1 x2 y2 at the scale of the input.
        use_sigmoid: Whether class scores are sigmoids, not a softmax with background.
    """

    def __init__(self, model: nn.Module, boxes: Tensor, use_sigmoid: bool) -> None:
        super().__init__(boxes)
        self.model = model
        self.use_sigmoid = use_sigmoid
        self.index: Tensor | None = None

    @abstractmethod
    def all_logits(self, batch: dict) -> Tensor:
        """Logits of every prediction on the one image of ``batch``, as in the head."""

    def logits(self, batch: dict) -> Tensor:
        return self.with_background(self.all_logits(batch))

    def with_background(self, logits: Tensor) -> Tensor:
        """Choose the rows that are kept from all; add the column of background."""
        if self.index is not None:
            logits = logits[self.index]
        if not self.use_sigmoid:
            return logits
        settings = self.model.test_cfg or {}
        threshold = torch.tensor(float(settings.get('score_thr', 0.0)))
        background = logits.new_full((len(logits), 1), threshold.logit().item())
        return torch.cat([logits, background], 1)

    def scores(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.use_sigmoid else logits.softmax(-1)

    def keep(self, mask: Tensor) -> None:
        index = mask.nonzero()[:, 0]
        self.index = index if self.index is None else self.index[index]
        self.boxes = self.boxes[mask]

    def agree(self, logits: Tensor, predictions: InstanceData) -> bool:
        """Whether predictions of the head itself are among these boxes and scores.

        Args:
            logits: (P, C) of all proposals on the image of the predictions.
            predictions: Boxes, labels and class scores.
        """
        if len(logits) != len(self.boxes):
            return False
        scores = self.scores(self.with_background(logits))
        count = len(predictions.scores)
        # From all levels: each head has its own order.
        some = torch.linspace(0, count - 1, min(count, COMPARED)).long()
        boxes = get_box_tensor(predictions.bboxes)
        for i in some.tolist():
            near = torch.isclose(
                self.boxes,
                boxes[i],
                rtol=0.0,
                atol=0.1,  # pixels
                equal_nan=True,  # untrained heads have boxes without end
            ).all(1)
            same = scores[near, predictions.labels[i]] - predictions.scores[i]
            if not (same.abs() < 1e-4).any():
                return False
        return True


def as_float(outputs: Any) -> Any:
    """Outputs of a head, nested in lists and tuples, in single precision."""
    if isinstance(outputs, list | tuple):
        return [as_float(output) for output in outputs]
    return outputs.float() if isinstance(outputs, Tensor) else outputs
