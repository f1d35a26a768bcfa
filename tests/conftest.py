"""Tiny networks and detectors: everything runs offline, in seconds, on a CPU."""

import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.hub import get_config
from mmengine.registry import DefaultScope, init_default_scope

import mmdiff.registry  # noqa: F401  (the scope mmdiff)
from mmdiff.attacks import AttackResult, AttackStats, oracle_of
from mmdiff.attacks.oracle import Question

TINY_UNET = dict(
    type='UNet2DModel',
    sample_size=32,
    block_out_channels=(4, 8, 8),
    down_block_types=('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'),
    layers_per_block=1,
    attention_head_dim=4,
    norm_num_groups=2,
)
CONFIGS = {
    'faster-rcnn': 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'retinanet': 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'fcos': 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
}
NUM_CLASSES = 5


TORCH = tuple(int(part) for part in torch.__version__.split('.')[:2])


def needs_torch(version: tuple[int, int], what: str) -> None:
    """Skip a test of what an older torch cannot do.

    Args:
        version: The first that can.
        what: What it is, for the reason.
    """
    if version > TORCH:
        pytest.skip(f'{what} needs torch {version[0]}.{version[1]}')


# The tests are many small operations: threads only get in each other's way.
torch.set_num_threads(1)


def detector_config(head: str, backbone: str, **backbone_args):
    """An mmdet detector shrunk, on a small ResNet or on a tiny diffusion U-Net."""
    cfg = copy.deepcopy(get_config(CONFIGS[head]).model)
    cfg.backbone.pop('init_cfg', None)
    cfg.data_preprocessor.pad_size_divisor = 32
    if backbone == 'resnet':
        cfg.backbone.update(depth=18, base_channels=8, frozen_stages=-1)
        cfg.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    else:
        cfg.data_preprocessor.update(mean=[127.5] * 3, std=[127.5] * 3)
        args = dict(model=TINY_UNET, timestep=10, out_indices=('down.0', 'mid'))
        cfg.backbone = dict(type='mmdiff.DiffusionUNet', **{**args, **backbone_args})
        strides = (4, 8, 16, 32, 64) if head == 'faster-rcnn' else (8, 16, 32, 64, 128)
        cfg.neck = dict(
            type='mmdiff.DiffusionFPN',
            in_channels=[4, 8],
            in_strides=[2, 4],
            out_channels=16,
            out_strides=strides,
        )
    if head == 'faster-rcnn':
        cfg.rpn_head.update(in_channels=16, feat_channels=16)
        cfg.roi_head.bbox_roi_extractor.out_channels = 16
        cfg.roi_head.bbox_head.update(
            in_channels=16, fc_out_channels=16, num_classes=NUM_CLASSES
        )
        cfg.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=50)
        cfg.test_cfg.rpn.update(nms_pre=100, max_per_img=50)
    else:
        cfg.bbox_head.update(
            in_channels=16, feat_channels=16, stacked_convs=1, num_classes=NUM_CLASSES
        )
        if head == 'fcos':
            cfg.bbox_head.norm_cfg = dict(type='GN', num_groups=4)
    return cfg


@pytest.fixture(scope='session', autouse=True)
def _registered():
    register_all_modules(init_default_scope=True)


@pytest.fixture(autouse=True)
def _mmdet_again():
    """A Runner of a classifier leaves its scope to the tests after it."""
    yield
    if DefaultScope.get_current_instance().scope_name != 'mmdet':
        init_default_scope('mmdet')


@pytest.fixture
def make_detector():
    """``make_detector(head, backbone, **backbone_args)``: in eval mode, seeded."""

    def make(head='faster-rcnn', backbone='diffusion', **backbone_args):
        torch.manual_seed(0)
        model = MODELS.build(detector_config(head, backbone, **backbone_args))
        model.init_weights()
        # An untrained head predicts the prior of its bias: give it an opinion.
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.data += 0.05 * torch.randn_like(parameter)
        for name in ('retina_cls', 'conv_cls'):
            if hasattr(getattr(model, 'bbox_head', None), name):
                getattr(model.bbox_head, name).bias.data.zero_()
        return model.eval()

    return make


def run(attack, model, batch, gt_scale='original', **kwargs) -> AttackResult:
    """Result of an attack on a batch."""
    return attack.run(oracle_of(model, gt_scale), batch, **kwargs)


def ask(attack, model, batch, gt_scale='original') -> Question:
    """The question that an iterative attack asks about a batch."""
    oracle = oracle_of(model, gt_scale)
    return oracle.ask(
        oracle.gather(batch),
        AttackStats(),
        attack.seed_of,
        attack.objective,
        attack.proposals,
        attack.eot,
    )


def preprocessed(model, images, batch) -> dict:
    """Other images in the place of a batch's, as the model's ``loss`` takes them."""
    oracle = oracle_of(model)
    group = oracle.gather(batch)
    return oracle.preprocess(images, group.samples, group.frames)


def batch_of(shapes=((3, 64, 96),), num_items=(3,), scale=1.0, first_id=0):
    """A batch as a test dataloader gives it: boxes at the scale of the file.

    Args:
        shapes: Of the images, as the model gets them.
        num_items: Objects in each image.
        scale: Of the images to their files.
        first_id: Id of the first image; content and ids follow from it.
    """
    inputs, samples = [], []
    for i, (shape, count) in enumerate(zip(shapes, num_items)):
        image_id = first_id + i
        torch.manual_seed(image_id)
        packed = demo_mm_inputs(
            1, [shape], num_items=[count], num_classes=NUM_CLASSES, with_semantic=False
        )
        image, sample = packed['inputs'][0], packed['data_samples'][0]
        generator = torch.Generator().manual_seed(image_id)
        image = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        height, width = shape[1:]
        # Boxes of a size that the heads assign to anchors.
        corner = torch.rand(count, 2, generator=generator) * torch.tensor(
            [width - 34.0, height - 34.0]
        )
        boxes = torch.cat([corner, corner + 32], 1)
        sample.gt_instances.bboxes = boxes / scale
        labels = torch.randint(0, NUM_CLASSES, (count,), generator=generator)
        sample.gt_instances.labels = labels
        sample.set_metainfo(
            dict(
                img_id=image_id,
                img_shape=(height, width),
                ori_shape=(round(height / scale), round(width / scale)),
                scale_factor=(scale, scale),
            )
        )
        for key in ('flip', 'flip_direction'):
            sample.set_metainfo({key: None})
        inputs.append(image)
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)
