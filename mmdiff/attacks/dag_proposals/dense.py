"""Proposals of one-stage detectors: their anchor points."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.models.dense_heads import YOLOV3Head
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .base import PredictionProposals, as_float

# Predictions of each level that are compared with the head's own.
COMPARED_PER_LEVEL = 20
ALL = 10**9
# Logits of what is certain: the sigmoid is 1 and 0 in single precision.
SURE, NEVER = 100.0, -1e4


@dataclass
class DenseOutputs:
    """Outputs of a dense head for one image, and what the head predicts from them.

    Args:
        head: The dense head.
        values: What it returned.
    """

    head: nn.Module
    values: tuple

    @property
    def first_class(self) -> int:
        """Channels of an anchor point in front of its classes.

        YOLOv3 has all in one map: box (4), objectness, classes.
        """
        return 5 if isinstance(self.head, YOLOV3Head) else 0

    @property
    def channels(self) -> int:
        """Channels of an anchor point in the maps with the classes."""
        if self.first_class:
            return self.head.num_attrib
        return self.head.cls_out_channels

    def rows(self) -> list[Tensor]:
        """Channels of every anchor point, (N, C) for each level."""
        return [
            level[0].permute(1, 2, 0).reshape(-1, self.channels)
            for level in self.values[0]
        ]

    def logits(self) -> Tensor:
        """Class outputs of every anchor point of all levels, (N, num_classes)."""
        return torch.cat(self.rows())[:, self.first_class :].float()

    def predict(
        self, metas: list[dict], per_level: int, classes: Tensor | None = None
    ) -> InstanceData:
        """Ask the head for its predictions before NMS.

        What multiplies class scores (centerness, objectness) is left out, or is 1.

        Args:
            metas: Meta information of the image.
            per_level: Predictions of each level at most.
            classes: Class outputs of all anchor points in the place of the head's own.
        """
        values = as_float(self.values)
        if self.first_class or classes is not None:
            values[0] = self._maps(self.logits() if classes is None else classes)
        more: dict[str, Any] = {}
        taken = inspect.signature(self.head.predict_by_feat).parameters
        if 'score_factors' in taken:
            more['score_factors'] = None
        if 'objectnesses' in taken:
            more['objectnesses'] = [torch.full_like(x, SURE) for x in values[2]]
        return self.head.predict_by_feat(
            *values[:2],
            batch_img_metas=metas,
            cfg=ConfigDict(score_thr=0.0, nms_pre=per_level, max_per_img=per_level),
            rescale=False,
            with_nms=False,
            **more,
        )[0]

    def _maps(self, classes: Tensor) -> list[Tensor]:
        """Maps as the head returned them, with these classes and sure objectness."""
        maps, rows = [], self.rows()
        parts = classes.split([len(part) for part in rows])
        for level, row, part in zip(self.values[0], rows, parts):
            # Some heads change what they are given: a copy.
            row = row.float().clone()
            row[:, self.first_class :] = part
            if self.first_class:
                row[:, self.first_class - 1] = SURE
            size = level.shape[-2:]
            maps.append(row.reshape(*size, -1).permute(2, 0, 1)[None])
        return maps


class DenseProposals(PredictionProposals):
    """Every anchor point of a one-stage detector, with the box it predicts.

    The boxes are the head's own, whatever its way to decode them: it is asked for all
    predictions, with class scores that fall from anchor point to anchor point. So they
    come in that order.

    Args:
        model: The detector, in eval mode.
        outputs: Outputs of its head for the clean image.
        metas: Meta information of the image.
        probabilities: The head's class outputs are scores already (TOOD). Their
            log-odds are taken for logits.
    """

    def __init__(
        self,
        model: nn.Module,
        outputs: DenseOutputs,
        metas: list[dict],
        probabilities: bool = False,
    ) -> None:
        self.probabilities = probabilities
        use_sigmoid = getattr(outputs.head, 'use_sigmoid_cls', True)
        logits = outputs.logits()
        falling = torch.linspace(0.9, 0.1, len(logits), device=logits.device)
        asked = torch.full_like(logits, NEVER)
        if not use_sigmoid:
            asked[:, -1] = 0.0  # the softmax of the first two classes is a sigmoid
        asked[:, 0] = falling.logit()
        if probabilities:
            asked = asked.sigmoid()
        answer = outputs.predict(metas, ALL, asked)
        super().__init__(model, get_box_tensor(answer.bboxes), use_sigmoid)

    def read(self, outputs: DenseOutputs) -> Tensor:
        """Logits of all anchor points in outputs of the head."""
        values = outputs.logits()
        if self.probabilities:
            return values.logit(eps=torch.finfo(values.dtype).eps)
        return values

    def all_logits(self, batch: dict) -> Tensor:
        return self.read(dense_outputs(self.model, batch))


def dense_outputs(model: nn.Module, batch: dict) -> DenseOutputs:
    """Run a one-stage detector on a batch of one image."""
    head = model.bbox_head
    return DenseOutputs(head, head(model.extract_feat(batch['inputs'])))


def dense_proposals(
    model: nn.Module, outputs: DenseOutputs, metas: list[dict]
) -> DenseProposals | None:
    """Anchor points as proposals, if the head's own predictions are among them.

    A head that predicts from other outputs than class scores and boxes raises whatever
    it comes upon.
    """
    expected = outputs.predict(metas, COMPARED_PER_LEVEL)
    for probabilities in (False, True):
        proposals = DenseProposals(model, outputs, metas, probabilities)
        if proposals.agree(proposals.read(outputs), expected):
            return proposals
    return None
