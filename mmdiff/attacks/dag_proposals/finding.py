"""Which proposals a detector has."""

import copy

import torch
from mmdet.models.detectors import DetectionTransformer
from torch import nn

from ..errors import NotApplicable
from .base import Proposals
from .dense import DenseProposals, dense_outputs, dense_proposals
from .queries import query_proposals
from .roi import RoIProposals

# What a head raises that predicts from other outputs than class scores and boxes.
UNLIKE = (
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


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
        NotApplicable: If the detector has neither one RoI head nor a dense head or
            queries whose class scores and boxes are those that it predicts.
    """
    roi_head = getattr(model, 'roi_head', None)
    if hasattr(model, 'rpn_head') and roi_head is not None:
        # Cascades classify each box several times, each time another box.
        if not isinstance(getattr(roi_head, 'bbox_head', None), nn.ModuleList):
            return _propose_rois(model, batch, iou_threshold, max_boxes)
    head = getattr(model, 'bbox_head', None)
    proposals: Proposals | None = None
    # Classes that are words of a sentence have no logits of their own.
    if not hasattr(model, 'language_model'):
        if isinstance(model, DetectionTransformer):
            proposals = query_proposals(model, batch)
        elif hasattr(head, 'prior_generator') and hasattr(head, 'predict_by_feat'):
            proposals = _propose_dense(model, batch)
    if proposals is None:
        raise _not_for_dag(model)
    return proposals


def _propose_dense(model: nn.Module, batch: dict) -> DenseProposals | None:
    """Anchor points of a one-stage detector; None if they are not its predictions."""
    # Outside of the next block: an error of the model itself must be seen as that.
    outputs = dense_outputs(model, batch)
    metas = [sample.metainfo for sample in batch['data_samples']]
    try:
        return dense_proposals(model, outputs, metas)
    except UNLIKE as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        # A shape that does not fit may be the fault of the question, or the model's
        # own: then it cannot predict either, and its error is seen here. (SSD of
        # mmdet 3.5.1 lacks an attribute for it: that head is one that DAG refuses.)
        if type(error) is RuntimeError:
            samples = copy.deepcopy(batch['data_samples'])
            model.predict(batch['inputs'], samples, rescale=False)
        raise _not_for_dag(model) from error


def _propose_rois(
    model: nn.Module, batch: dict, iou_threshold: float, max_boxes: int
) -> RoIProposals:
    """Proposals whose logits are those of the classes and of background."""
    # An RPN of several stages is not called as a whole. This is asked, not tried: torch
    # raises NotImplementedError too, where an operation lacks a kernel.
    if type(model.rpn_head).forward is nn.Module.forward:
        raise _not_for_dag(model)
    proposals = RoIProposals(model, batch, iou_threshold, max_boxes)
    head = model.roi_head.bbox_head
    columns = proposals.logits(batch).shape[1]
    # Seesaw loss has two columns more, and scores of its own.
    own_scores = getattr(getattr(head, 'loss_cls', None), 'custom_activation', False)
    if own_scores or columns != head.num_classes + 1:
        raise _not_for_dag(model)
    return proposals


def _not_for_dag(model: nn.Module) -> NotApplicable:
    return NotApplicable(
        f'DAG attacks proposals, and {type(model).__name__} has no single RoI head, '
        'and no dense head or queries whose class scores and boxes are those that it '
        'predicts; use PGD instead.'
    )
