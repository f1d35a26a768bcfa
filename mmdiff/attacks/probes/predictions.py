"""Are predictions those of the image, and of nothing else that a test hands over?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from mmdiff.utils.modules import seed_all

from ..oracle import Oracle
from .findings import ModelProbe
from .flags import evaluating
from .tensors import relative_gap

# Relative difference of predictions that is rounding: other algorithms of a GPU may
# sum otherwise in two passes.
ROUNDING = 1e-3


def probe_predictions(oracle: Oracle, batch: dict, probe: ModelProbe) -> None:
    """Test images again, each with one thing changed that is handed to a test.

    The truth in a data sample is for the metric, and the image's name for a report:
    with others predictions must be the same. With another image of the same name they
    must not, nor with one that no eye tells apart: what was kept by the looks of an
    image is given to the attacked one, too.

    Args:
        oracle: Oracle of the model.
        batch: A batch of a few images, as the dataloader gives it.
        probe: Takes the findings.
    """
    with oracle.attacked(), evaluating(oracle.tested), torch.no_grad():
        for x, sample in zip(batch['inputs'], batch['data_samples']):
            _ask(oracle, x, sample, probe)


def _ask(oracle: Oracle, x: Tensor, sample: Any, probe: ModelProbe) -> None:
    """Ask about one image: four times if all is well, and then what the matter is."""
    model = oracle.tested

    def predict(*changes: Callable[[Any], None], x: Tensor = x) -> list[Tensor]:
        probe.passes += 1
        return _predict(model, x, sample, changes)

    plain = predict()
    if not plain:
        return
    same = [o for o in ((255 - x).flip(-1), _shaken(x)) if _equal(plain, predict(x=o))]
    if oracle.task == 'classification':
        same = [o for o in same if _behind_logits(oracle, plain, x, o)]
    probe.stuck += int(bool(same))
    if not _apart(plain, predict(_other_truth, _other_name)):
        return
    if _apart(plain, predict()):  # all other differences are of that
        return
    probe.truth_read += int(_apart(plain, predict(_other_truth)))
    probe.name_read += int(_apart(plain, predict(_other_name)))


def _behind_logits(oracle: Any, plain: list[Tensor], x: Tensor, other: Tensor) -> bool:
    """Whether scores that are those of the logits stay while the logits change.

    Votes of several samples, which need not change, are not those of the logits;
    scores that are saturated stay in both.
    """
    scores = []
    for image in (x, other):
        seed_all(0)
        batch = oracle.preprocessor({'inputs': [image.float()]}, training=False)
        scores.append(oracle.logits(batch)[0].softmax(0))
    (reported,) = plain
    same = relative_gap(reported.to(scores[0]), scores[0]) <= ROUNDING
    return same and not torch.equal(*scores)


def _predict(
    model: nn.Module, x: Tensor, sample: Any, changes: Sequence[Callable[[Any], None]]
) -> list[Tensor]:
    """What a test reports of an image; empty if that is nothing that is known."""
    sample = sample.clone()
    for change in changes:
        change(sample)
    seed_all(0)
    (output,) = model.test_step({'inputs': [x.clone()], 'data_samples': [sample]})
    predicted = output.get('pred_instances')
    if predicted is None:
        score = output.get('pred_score')
        return [] if score is None else [score]
    if 'scores' not in predicted or not len(predicted):
        return []
    return [
        get_box_tensor(value).float()
        for name, value in predicted.items()
        if name in ('scores', 'bboxes', 'labels')
    ]


def _shaken(x: Tensor) -> Tensor:
    """The same image with 1 added to or taken off each pixel value, by chance."""
    generator = torch.Generator().manual_seed(0)
    steps = 2 * torch.randint(0, 2, x.shape, generator=generator) - 1
    return (x + steps.to(x.device)).clamp(0, 255).to(x.dtype)


def _other_truth(sample: Any) -> None:
    """Shrink and move all objects; give them and the image another class."""
    objects = sample.get('gt_instances')
    if objects is not None:
        objects = objects.clone()
        if 'bboxes' in objects:
            objects.bboxes = get_box_tensor(objects.bboxes) * 0.5 + 3
        if 'labels' in objects:
            objects.labels = torch.where(objects.labels > 0, objects.labels - 1, 1)
        sample.gt_instances = objects
    if 'gt_label' in sample:
        label = sample.gt_label
        sample.set_gt_label(torch.where(label > 0, label - 1, 1))


def _other_name(sample: Any) -> None:
    names = {'img_id': 2**31 - 1, 'img_path': 'another/image.jpg'}
    known = {name: value for name, value in names.items() if name in sample.metainfo}
    sample.set_metainfo(known)


def _equal(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether two predictions are the same to the last bit."""
    return len(first) == len(second) and all(map(torch.equal, first, second))


def _apart(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether two predictions differ by more than rounding."""
    if len(first) != len(second):
        return True
    return any(
        a.shape != b.shape or relative_gap(a, b) > ROUNDING
        for a, b in zip(first, second)
    )
