"""Small classifiers and their batches."""

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS as ROOT
from mmengine.registry import DefaultScope
from torch import nn


@ROOT.register_module(force=True)  # tests of several folders import this file
class TwoConvolutions(BaseModule):
    """What takes a millisecond: no normalisation, two layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 64, 3, 2, 1), nn.ReLU()
        )

    def forward(self, x):
        return (self.layers(x),)


def make_classifier(num_classes=10, head='LinearClsHead', backbone=None, channels=64):
    """Two convolutions, or a backbone by its config, and a head; random weights."""
    from mmpretrain.registry import MODELS

    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(
            dict(
                type='ImageClassifier',
                data_preprocessor=dict(
                    type='ClsDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3
                ),
                backbone=backbone or dict(type='TwoConvolutions'),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type=head, num_classes=num_classes, in_channels=channels),
            )
        )
    return model.eval()


def make_batch(images, labels):
    """A batch as a dataloader gives it: images 0..255 in uint8, and their classes."""
    from mmpretrain.structures import DataSample

    samples = []
    for i, label in enumerate(labels):
        samples.append(DataSample().set_gt_label(int(label)))
        samples[i].set_metainfo(dict(img_id=i))
    return dict(inputs=images, data_samples=samples)


def random_batch(count=3, num_classes=10, size=32):
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, size, size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return make_batch(images, [i % num_classes for i in range(count)])


@torch.no_grad()
def logits_of(model, images):
    data = model.data_preprocessor(dict(inputs=list(images)), False)
    return model(data['inputs'], mode='tensor')
