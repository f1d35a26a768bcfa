"""Probes raise no false alarm on detectors that are built in other ways."""

import sys
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from conftest import batch_of
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmengine.utils import digit_version

from mmdiff.attacks import PGD, oracle_of
from mmdiff.engine.loops.probing import ask
from mmdiff.evaluation.checks import check_probes

BENCHMARKS = Path(__file__).parents[2] / 'tools' / 'benchmarks'


@pytest.fixture(scope='module')
def build():
    """``build(kind)``: a small detector of the benchmark of checks, untrained."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from planted.architectures import model_config
    finally:
        sys.path.remove(str(BENCHMARKS))

    def make(kind):
        torch.manual_seed(0)
        model = MODELS.build(model_config(kind))
        model.init_weights()
        return model.eval()

    return make


def image_of(kind):
    """One image whose file is larger than the input."""
    batch = batch_of([(3, 128, 128)], (2,), scale=0.5)
    objects = batch['data_samples'][0].gt_instances
    boxes = [[30.0, 20, 110, 120], [130, 120, 240, 220]]
    objects.bboxes, objects.labels = torch.tensor(boxes), torch.tensor([1, 3])
    if kind == 'mask-rcnn':
        masks = np.zeros((2, 256, 256), np.uint8)
        masks[0, 20:120, 30:110] = masks[1, 120:220, 130:240] = 1
        objects.masks = BitmapMasks(masks, 256, 256)
    return batch


# Losses of an untrained YOLOX jump with its targets, and those of other detectors that
# assign by predictions say nothing about boxes: the benchmark of checks trains them.
@pytest.mark.parametrize(
    'kind, objective',
    [
        ('dino', 'detections'),
        ('ddq', 'total'),
        ('mask-rcnn', 'total'),
        ('yolox', 'detections'),
    ],
)
def test_a_sound_detector_is_not_flagged(build, kind, objective):
    if kind == 'dino' and digit_version(mmdet.__version__) < digit_version('3.4'):
        pytest.skip('DINO of mmdet 3.3 has embeddings of one width only')
    oracle = oracle_of(build(kind))
    probes = ask(oracle, image_of(kind), [PGD(eps=8, objective=objective)])
    flags = check_probes(probes, objective)
    assert [(flag.code, flag.text) for flag in flags] == []
    (probe,) = probes.objectives
    assert min(probe.smoothness.values()) > 0.95 and probe.blocked == 0
    assert probes.model.fixed and probes.model.objects_ignored == 0
