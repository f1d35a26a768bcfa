"""Proposals of DETR and its relatives: their queries."""

from typing import Any

from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from .base import PredictionProposals, as_float

# What a decoder is told about the queries.
QUERIES = ('query', 'query_pos', 'reference_points')


class QueryProposals(PredictionProposals):
    """Every query of a DETR, with the box it predicts on the clean image.

    Two-stage relatives (DINO, DDQ) choose their queries on the image, as an RPN does.
    They are chosen once, on the clean image: on another one, the n-th query may be
    another object.

    Args:
        model: The detector, in eval mode.
        batch: Output of its ``data_preprocessor`` for the clean image.
    """

    def __init__(self, model: nn.Module, batch: dict) -> None:
        self.queries: dict[str, Tensor] = {}
        self.model = model
        _, boxes = self._decode(batch)
        height, width = batch['data_samples'][0].metainfo['img_shape'][:2]
        limits = boxes.new_tensor([width, height, width, height])
        boxes = bbox_cxcywh_to_xyxy(boxes) * limits
        boxes = boxes.clamp(min=0).minimum(limits)
        super().__init__(model, boxes, model.bbox_head.loss_cls.use_sigmoid)

    def all_logits(self, batch: dict) -> Tensor:
        return self._decode(batch)[0]

    def _decode(self, batch: dict) -> tuple[Tensor, Tensor]:
        """Class logits (Q, C) and boxes (Q, 4) of the last decoder layer.

        As ``DetectionTransformer.forward_transformer`` of mmdet, with queries of the
        first call.
        """
        model, samples = self.model, batch['data_samples']
        features = model.extract_feat(batch['inputs'])
        encoder_inputs, decoder_inputs = model.pre_transformer(features, samples)
        encoded = model.forward_encoder(**encoder_inputs)
        chosen, head_inputs = model.pre_decoder(**encoded)
        if not self.queries:
            self.queries = {k: chosen[k].detach() for k in QUERIES if k in chosen}
        decoder_inputs.update(chosen)
        decoder_inputs.update(self.queries)
        head_inputs.update(model.forward_decoder(**decoder_inputs))
        logits, boxes = _last_layer(model.bbox_head(**head_inputs))
        return logits, boxes


def query_proposals(model: nn.Module, batch: dict) -> QueryProposals | None:
    """Queries as proposals, if the detector's own predictions are among them."""
    proposals = QueryProposals(model, batch)
    logits = proposals.all_logits(batch)
    samples, head = batch['data_samples'], model.bbox_head
    features = model.extract_feat(batch['inputs'])
    outputs = head(**model.forward_transformer(features, samples))
    (expected,) = head.predict_by_feat(
        *as_float(outputs),
        batch_img_metas=[sample.metainfo for sample in samples],
        rescale=False,
    )
    return proposals if proposals.agree(logits, expected) else None


def _last_layer(outputs: Any) -> tuple[Tensor, Tensor]:
    logits, boxes = as_float(outputs)
    return logits[-1][0], boxes[-1][0]
