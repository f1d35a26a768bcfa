"""A classic bug, planted: boxes at the scale of the file, the image at the input's.

mmdet's test pipelines keep boxes where the metric wants them. An attack that takes its
loss there runs, raises that loss, and reports a robustness that is not there.
"""

import copy

import numpy as np
import pytest
import torch
from conftest import NUM_CLASSES, ask, detector_config, run
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from mmdiff import PGD
from mmdiff.attacks.oracle.ground_truth import to_input_scale
from mmdiff.datasets.toy_shapes import CLASSES, draw_scene


@pytest.fixture(scope='module')
def resized():
    """Images of 32 px seen at 64, boxes at the scale of the file."""
    inputs, samples = [], []
    meta = dict(img_shape=(64, 64), ori_shape=(32, 32), scale_factor=(2.0, 2.0))
    for i in range(3):
        image, objects = draw_scene(np.random.default_rng(i), 64)
        sample = DetDataSample(metainfo=dict(meta, img_id=i))
        labels = [CLASSES.index(name) % NUM_CLASSES for name, _ in objects]
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([box for _, box in objects]) / 2,
            labels=torch.tensor(labels),
        )
        inputs.append(torch.from_numpy(image).permute(2, 0, 1))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


@pytest.fixture(scope='module')
def model(resized):
    """A detector on its way: it has seen these images for a second or two."""
    torch.manual_seed(0)
    # Whatever scope the tests before it in this process left.
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(detector_config('fcos', 'resnet'))
    model.init_weights()
    samples = [to_input_scale(s, 'original') for s in resized['data_samples']]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(31):
        batch = dict(resized, data_samples=copy.deepcopy(samples))
        data = model.data_preprocessor(batch, training=True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_boxes_at_the_wrong_scale_weaken_the_attack(model, resized):
    # Against the boxes where they are, with the same sampling for all.
    question = ask(PGD(), model, resized)

    def loss(images):
        return question.losses([x.float() for x in images], 0, 0)

    clean = loss(resized['inputs'])
    gains, attack = {}, PGD(eps=4, steps=8)
    for name, gt_scale in (('right', 'original'), ('wrong', 'input')):
        result = run(attack, model, resized, gt_scale)
        gains[name] = loss(result.inputs) - clean
    # The planted one does not notice: the loss that it sees rises as well.
    assert result.stats.losses[8] > result.stats.losses[0]
    assert (gains['right'] > gains['wrong']).all()
    assert gains['right'].mean() > 1.4 * gains['wrong'].mean()
