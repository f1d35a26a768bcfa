"""Proposals of two-stage detectors."""

import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import ConfigDict
from torch import Tensor, nn

from .base import Proposals


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
