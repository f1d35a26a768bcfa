"""Small random test sets, and detections on them of several runs."""

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData

from mmdiff.attacks import AttackStats
from mmdiff.evaluation.record import RunRecord
from mmdiff.evaluation.scoring import GroundTruth, scorer_of

CLASSES = ('a', 'b', 'c', 'd', 'e')  # of 'e' there is no object


def _boxes(generator, count):
    corners = generator.uniform(0, 60, (count, 2))
    sizes = generator.uniform(8, 40, (count, 2))
    return np.hstack([corners, corners + sizes]).astype(np.float32)


def make_instances(boxes, labels):
    boxes = torch.tensor(np.array(boxes, np.float32).reshape(-1, 4))
    return InstanceData(bboxes=boxes, labels=torch.tensor(np.array(labels, int)))


def make_sample(generator, number):
    """0 to 3 objects, and a crowd or difficult object in every other image."""
    boxes = _boxes(generator, generator.integers(0, 4))
    labels = generator.integers(0, len(CLASSES) - 1, len(boxes))
    ignored = _boxes(generator, generator.integers(0, 2))
    of = generator.integers(0, len(CLASSES), len(ignored))
    # Ids are not in order: COCO's metric sorts images by them.
    sample = DetDataSample(
        metainfo={
            'img_id': 1000 - number if number % 3 else 5000 + number,
            'ori_shape': (100, 100),
            'scale_factor': (1, 1),
            'instances': [
                {'bbox': box.tolist(), 'bbox_label': int(label), 'ignore_flag': flag}
                for part, names, flag in ((boxes, labels, 0), (ignored, of, 1))
                for box, label in zip(part, names)
            ],
        }
    )
    sample.gt_instances = make_instances(boxes, labels)
    sample.ignored_instances = make_instances(ignored, of)
    return sample


def make_samples(count, seed):
    generator = np.random.default_rng(seed)
    return [make_sample(generator, number) for number in range(count)]


def detect(samples, seed, noise=3.0, levels=None, alarms=8):
    """Record of a run: objects found none to two times, and false alarms.

    Args:
        levels: Number of different scores, so that there are ties.
    """
    generator = np.random.default_rng(seed)
    predictions = []
    for sample in samples:
        truth = sample.gt_instances
        times = generator.integers(0, 3, len(truth.labels))
        boxes = np.repeat(truth.bboxes.numpy(), times, 0)
        boxes = boxes + generator.normal(0, noise, boxes.shape)
        labels = np.repeat(truth.labels.numpy(), times)
        wrong = generator.random(len(labels)) < 0.2
        labels = np.where(wrong, generator.integers(0, 5, len(labels)), labels)
        false = _boxes(generator, generator.integers(0, alarms + 1))
        labels = np.r_[labels, generator.integers(0, 5, len(false))]
        scores = generator.random(len(labels))
        if levels:
            scores = np.round(scores * levels) / levels
        predictions.append(
            {
                'bboxes': torch.tensor(np.vstack([boxes, false]), dtype=torch.float32),
                'scores': torch.tensor(scores, dtype=torch.float32),
                'labels': torch.tensor(labels),
            }
        )
    return record_of(predictions)


def record_of(predictions):
    count = len(predictions)
    return RunRecord(predictions, np.zeros(count), np.zeros(count), AttackStats())


def make_scorer(metric, samples):
    """Scorer of a metric, with the scores of records to be set by it."""
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = {'classes': CLASSES}
    truth = GroundTruth(len(samples), lambda i: samples[i], CLASSES)
    return scorer_of('detection', evaluator, truth)


def scored(scorer, record):
    pairs = enumerate(record.predictions)
    record.score = np.array([scorer.image_score(i, one) for i, one in pairs])
    return record
