"""Class logits of a fixed set of boxes, for attacks on what a detector sees there."""

from abc import ABC, abstractmethod

import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import ConfigDict
from torch import Tensor, nn

from .errors import NotApplicable

# Predictions of each level that are compared with the head's own.
COMPARED = 20


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


class RoIProposals(Proposals):
    """Proposals of an RPN, classified by the RoI head of a two-stage detector."""

    def __init__(
        self, model: nn.Module, batch: dict, iou_threshold: float, max_boxes: int
    ) -> None:
        self.model = model
        cfg = ConfigDict(
            dict(
                model.test_cfg.rpn,
                nms_pre=max_boxes,
                max_per_img=max_boxes,
                nms=dict(type='nms', iou_threshold=iou_threshold),
            )
        )
        features = model.extract_feat(batch['inputs'])
        metas = [sample.metainfo for sample in batch['data_samples']]
        proposals = model.rpn_head.predict_by_feat(
            *model.rpn_head(features), batch_img_metas=metas, cfg=cfg, rescale=False
        )
        super().__init__(get_box_tensor(proposals[0].bboxes))

    def logits(self, batch: dict) -> Tensor:
        rois = torch.cat([self.boxes.new_zeros(len(self.boxes), 1), self.boxes], 1)
        features = self.model.extract_feat(batch['inputs'])
        return self.model.roi_head._bbox_forward(features, rois)['cls_score']

    def keep(self, mask: Tensor) -> None:
        self.boxes = self.boxes[mask]


class DenseProposals(Proposals):
    """Every anchor point of a one-stage detector, with the box it predicts.

    A head with sigmoid scores has no background class: there a box shows background if
    no class passes the ``score_thr`` of the model's ``test_cfg``.
    """

    def __init__(self, model: nn.Module, batch: dict) -> None:
        self.model = model
        self.head = head = model.bbox_head
        self.index: Tensor | None = None
        cls_scores, bbox_preds = head(model.extract_feat(batch['inputs']))[:2]
        priors = head.prior_generator.grid_priors(
            [score.shape[-2:] for score in cls_scores], device=cls_scores[0].device
        )
        shape = batch['data_samples'][0].metainfo['img_shape']
        boxes = [
            head.bbox_coder.decode(
                prior, pred[0].permute(1, 2, 0).reshape(len(prior), -1), max_shape=shape
            )
            for prior, pred in zip(priors, bbox_preds)
        ]
        super().__init__(get_box_tensor(torch.cat([get_box_tensor(b) for b in boxes])))

    def logits(self, batch: dict) -> Tensor:
        cls_scores = self.head(self.model.extract_feat(batch['inputs']))[0]
        channels = self.head.cls_out_channels
        logits = torch.cat(
            [score[0].permute(1, 2, 0).reshape(-1, channels) for score in cls_scores]
        )
        if self.index is not None:
            logits = logits[self.index]
        if self.head.use_sigmoid_cls:
            threshold = torch.tensor(float(self.model.test_cfg.score_thr))
            background = logits.new_full((len(logits), 1), threshold.logit().item())
            logits = torch.cat([logits, background], 1)
        return logits

    def scores(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.head.use_sigmoid_cls else logits.softmax(-1)

    def keep(self, mask: Tensor) -> None:
        index = mask.nonzero()[:, 0]
        self.index = index if self.index is None else self.index[index]
        self.boxes = self.boxes[mask]


def propose(
    model: nn.Module, batch: dict, iou_threshold: float, max_boxes: int
) -> Proposals:
    """Find the boxes of the one image in ``batch``.

    Args:
        model: The detector, in eval mode.
        batch: Output of its ``data_preprocessor``.
        iou_threshold: Overlap above which the NMS of an RPN drops a proposal.
        max_boxes: Proposals of an RPN at most.

    Raises:
        NotApplicable: If the detector has neither one RoI head nor a dense head whose
            class scores and boxes are known for every anchor point.
    """
    roi_head = getattr(model, 'roi_head', None)
    if hasattr(model, 'rpn_head') and roi_head is not None:
        # Cascades classify each box several times, each time another box.
        if not isinstance(getattr(roi_head, 'bbox_head', None), nn.ModuleList):
            return _propose_rois(model, batch, iou_threshold, max_boxes)
    head = getattr(model, 'bbox_head', None)
    known = all(hasattr(head, name) for name in ('prior_generator', 'bbox_coder'))
    if head is None or not known:
        raise _not_for_dag(model)
    # Outside of the next block: an error of the model itself must be seen as that.
    outputs = head(model.extract_feat(batch['inputs']))
    try:
        proposals = DenseProposals(model, batch)
        alike = _agrees(proposals, head, outputs, batch)
    except (
        AssertionError,
        AttributeError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        # Boxes as distributions (GFL), all in one output (YOLOv3), or a head that
        # cannot predict (SSD of mmdet 3.5.1).
        raise _not_for_dag(model) from error
    if not alike:  # decoded or squashed already in the network (TOOD)
        raise _not_for_dag(model)
    return proposals


def _propose_rois(
    model: nn.Module, batch: dict, iou_threshold: float, max_boxes: int
) -> RoIProposals:
    """Proposals whose logits are those of the classes and of background."""
    try:
        proposals = RoIProposals(model, batch, iou_threshold, max_boxes)
    except NotImplementedError as error:  # an RPN of several stages
        raise _not_for_dag(model) from error
    head = model.roi_head.bbox_head
    columns = proposals.logits(batch).shape[1]
    # Seesaw loss has two columns more, and scores of its own.
    own_scores = getattr(getattr(head, 'loss_cls', None), 'custom_activation', False)
    if own_scores or columns != head.num_classes + 1:
        raise _not_for_dag(model)
    return proposals


def _not_for_dag(model: nn.Module) -> NotApplicable:
    return NotApplicable(
        f'DAG attacks proposals, and {type(model).__name__} has no single RoI head and '
        'no dense head that gives each anchor point class scores and one box; use PGD '
        'instead.'
    )


def _agrees(
    proposals: DenseProposals, head: nn.Module, outputs: tuple, batch: dict
) -> bool:
    """Whether boxes and class scores are those that the head itself makes of them."""
    logits = proposals.logits(batch)
    if len(logits) != len(proposals.boxes):
        return False
    cfg = ConfigDict(score_thr=0.0, nms_pre=COMPARED, max_per_img=COMPARED)
    metas = [sample.metainfo for sample in batch['data_samples']]
    predictions = head.predict_by_feat(
        *outputs[:2],
        score_factors=None,
        batch_img_metas=metas,
        cfg=cfg,
        rescale=False,
        with_nms=False,
    )[0]
    boxes, scores = get_box_tensor(predictions.bboxes), proposals.scores(logits)
    for box, label, score in zip(boxes, predictions.labels, predictions.scores):
        near = (proposals.boxes - box).abs().amax(1) < 0.1  # pixels
        if not ((scores[near, label] - score).abs() < 1e-4).any():
            return False
    return True
