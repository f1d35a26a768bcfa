"""A detector that draws, attacks that need no gradient, and a runner of both."""

import json
import math

import torch
from mmdet.models import BaseDetector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData

from mmdiff.attacks.iterative_attack import IterativeAttack
from mmdiff.datasets.toy_shapes import CLASSES
from mmdiff.registry import ATTACKS

VOC = dict(type='VOCMetric', metric='mAP', eval_mode='area')


@MODELS.register_module(force=True)
class Guesser(BaseDetector):
    """Draws which objects it sees, with which scores, and has one false alarm.

    Args:
        draws: Width of what is drawn; 0: the same answer every time.
        own: Draw from a generator of its own, which no seed reaches.
        data_preprocessor: As of any detector.
    """

    def __init__(self, draws=1.0, own=False, data_preprocessor=None, init_cfg=None):
        super().__init__(dict(type='DetDataPreprocessor'), init_cfg)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.draws, self.own = draws, torch.Generator() if own else None
        self.calls = 0

    def _noise(self, count):
        return self.draws * (torch.rand(count, generator=self.own) - 0.5)

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        self.calls += 1
        for x, sample in zip(batch_inputs, batch_data_samples):
            truth = sample.gt_instances
            boxes = torch.cat([truth.bboxes, truth.bboxes[:1] + 50])
            scores = 0.5 + self._noise(len(boxes))
            scores[-1] += x.mean() / 1000  # what is brighter has surer false alarms
            seen = scores >= 0.5
            sample.pred_instances = InstanceData(
                bboxes=boxes[seen],
                labels=torch.cat([truth.labels, truth.labels[:1]])[seen],
                scores=scores[seen],
            )
        return batch_data_samples

    def loss(self, batch_inputs, batch_data_samples):
        return dict(loss_cls=batch_inputs.mean() + self.weight)

    def extract_feat(self, batch_inputs):
        return (batch_inputs,)

    def _forward(self, batch_inputs, batch_data_samples=None):
        return batch_inputs


@ATTACKS.register_module(force=True)
class Shift(IterativeAttack):
    """Every pixel by the whole budget, to one side; counts how often it ran."""

    ran = 0
    side = 1

    def search(self, question, group, restart):
        raise NotImplementedError

    def perturb(self, oracle, group, stats):
        type(self).ran += 1
        changed = [x + self.side * self.eps for x in group.pixels]
        return changed, [math.nan] * len(group.ids)  # it ascends nothing


@ATTACKS.register_module(force=True)
class Darken(Shift):
    side = -1


ATTACKS_OF_BOTH = [
    dict(type='mmdiff.Shift', eps=8, eot=2),
    dict(type='mmdiff.Darken', eps=8, eot=2),
]


def make_runner(root, work_dir, attacks=ATTACKS_OF_BOTH, model=(), **settings):
    """A Runner of a Guesser; ``settings`` are those of the loop."""
    dataset = dict(
        type='VOCDataset',
        data_root=str(root),
        ann_file='ImageSets/Main/val.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=CLASSES),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(
                type='PackDetInputs',
                meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor'),
            ),
        ],
    )
    loop = dict(type='mmdiff.RobustTestLoop', sanity_images=2, num_gallery=0)
    cfg = dict(
        model=dict(type='Guesser', **dict(model)),
        work_dir=str(work_dir),
        default_scope='mmdet',
        test_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dataset,
        ),
        test_cfg=dict(loop, attacks=attacks, **settings),
        test_evaluator=VOC,
        visualizer=dict(type='DetLocalVisualizer', vis_backends=[]),
        log_level='WARNING',
        randomness=dict(seed=0),
        experiment_name=work_dir.name,
    )
    return Runner.from_cfg(Config(cfg))


def run(runner):
    """Rows of the report by their keys, as read from its file."""
    runner.test()
    report = json.loads(runner.test_loop.out.read_text())
    return {row['key']: row for row in report['results']}
