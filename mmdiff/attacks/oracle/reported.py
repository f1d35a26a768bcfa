"""All that a detector could report of a batch, by its own way of predicting."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from mmdet.models.utils import select_single_mlvl as pick_image
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import ConfigDict
from torch import Tensor, nn

from mmdiff.utils.modules import replaced

from ..errors import NotApplicable
from ..objectives.detections import Candidates

# More than any head can report of an image.
ALL = 10**6


def candidates_of(model: nn.Module, batch: dict) -> list[Candidates]:
    """Ask a detector for its detections of each image, unthresholded and before NMS.

    Proposals, scores and boxes are those of test time, differentiable; what only sorts
    out detections afterwards (score threshold, NMS, a largest number) is switched off,
    and masks are not made.

    Args:
        model: The detector, in eval mode.
        batch: Preprocessed ``inputs`` and ``data_samples``.

    Raises:
        NotApplicable: If the model reports no boxes with scores and classes.
    """
    inputs, samples = batch['inputs'], batch['data_samples']
    try:
        with unfiltered(model):
            samples = model.predict(inputs, samples, rescale=False)
    except (AttributeError, KeyError, TypeError) as error:
        model.predict(inputs, batch['data_samples'], rescale=False)  # its own error
        raise NotApplicable(
            f'{type(model).__name__} cannot predict without its NMS and thresholds, as '
            "an objective on what it reports asks; use objective='total'."
        ) from error
    return [_read(model, sample.get('pred_instances', {})) for sample in samples]


def _read(model: nn.Module, predicted: Any) -> Candidates:
    missing = {'bboxes', 'scores', 'labels'} - {*predicted.keys()}
    if missing:
        raise NotApplicable(
            f'{type(model).__name__} reports no {" and no ".join(sorted(missing))}, '
            "which this objective is about; use objective='total'."
        )
    boxes = get_box_tensor(predicted.bboxes)
    return Candidates(boxes, predicted.scores, predicted.labels)


@contextmanager
def unfiltered(model: nn.Module) -> Iterator[None]:
    """Let a detector report all candidates of its final head.

    An RPN goes on to sort its proposals as at test time: what it drops is not seen by
    the head.
    """
    with ExitStack() as stack:
        for name, module in model.named_modules():
            cfg = vars(module).get('test_cfg')
            if isinstance(cfg, dict) and 'nms' in cfg and 'rpn' not in name:
                stack.enter_context(replaced(module, 'test_cfg', _loosened(cfg)))
            if getattr(module, 'mask_head', None) is not None:
                # A detector of one stage predicts masks on the boxes unasked.
                masks = _NoMasks() if getattr(module, 'bbox_head', None) else None
                masks = None if 'roi_head' in name else masks
                stack.enter_context(replaced(module, 'mask_head', masks))
        for users in [*sys.modules.values()]:
            # Dense heads detach what they pick of a batch, unless told otherwise.
            if vars(users).get('select_single_mlvl') is pick_image:
                stack.enter_context(replaced(users, 'select_single_mlvl', _select))
        yield


class _NoMasks:
    """In the place of a mask head: boxes stay as they are."""

    def predict(self, *args: Any, results_list: Any = None, **kwargs: Any) -> Any:
        return results_list


def _select(levels: Sequence[Tensor], image: int, detach: bool = False) -> list[Tensor]:
    """Pick one image of each level, differentiably."""
    return pick_image(levels, image, detach=False)


def _loosened(cfg: dict) -> ConfigDict:
    """Copy a head's test settings without thresholds, NMS and a largest number."""
    changes: dict[str, Any] = {'nms': None, 'max_per_img': ALL}
    for threshold in ('score_thr', 'conf_thr'):
        if threshold in cfg:
            changes[threshold] = 0.0
    return ConfigDict({**cfg, **changes})
