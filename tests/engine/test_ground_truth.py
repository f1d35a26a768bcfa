"""Scale of the ground truth, through every wrapper, and truth that is missing."""

import logging
from types import SimpleNamespace

import pytest
import torch
from conftest import batch_of, detector_config
from mmcv.transforms import Compose, RandomApply
from mmdet.datasets import ConcatDataset as MMDetConcat
from mmdet.registry import MODELS, TRANSFORMS
from mmengine.dataset import (
    BaseDataset,
    ClassBalancedDataset,
    ConcatDataset,
    RepeatDataset,
)
from mmengine.hub import get_config
from torch.utils.data import Subset

from mmdiff.attacks import PGD, RandomNoise, oracle_of
from mmdiff.engine.ground_truth import ground_truth_scale, metainfo_of, truth_needed
from mmdiff.engine.hooks import AttackHook
from mmdiff.engine.loops.trial import try_attacks

LOAD = dict(type='LoadAnnotations', with_bbox=True)
RESIZE = dict(type='Resize', scale=(32, 32))


class Images(BaseDataset):
    """Two images that are never loaded."""

    def __init__(self, *pipeline):
        steps = [TRANSFORMS.build(step) for step in pipeline]
        super().__init__(pipeline=steps, serialize_data=False)

    def load_data_list(self):
        return [dict(img_id=i) for i in range(2)]

    def get_cat_ids(self, index):
        return [0]


def as_training():
    return Images(dict(type='LoadImageFromFile'), LOAD, RESIZE)


def as_test():
    return Images(dict(type='LoadImageFromFile'), RESIZE, LOAD)


@pytest.mark.parametrize(
    'wrap',
    [
        lambda dataset: dataset,
        lambda dataset: RepeatDataset(dataset, 2),
        lambda dataset: ClassBalancedDataset(dataset, 0.5),
        lambda dataset: ConcatDataset([dataset, dataset]),
        lambda dataset: Subset(ConcatDataset([dataset, dataset]), [0]),
        lambda dataset: Subset(dataset, [0]),
    ],
)
def test_wrappers_do_not_hide_the_order(wrap):
    assert ground_truth_scale(wrap(as_training())) == 'input'
    assert ground_truth_scale(wrap(as_test())) == 'original'


def test_nested_transforms_do_not_hide_the_order():
    dataset = as_test()
    nested = RandomApply([TRANSFORMS.build(RESIZE)], prob=1.0)
    dataset.pipeline = Compose([TRANSFORMS.build(LOAD), nested])
    assert ground_truth_scale(dataset) == 'input'
    dataset.pipeline = Compose([nested, TRANSFORMS.build(LOAD)])
    assert ground_truth_scale(dataset) == 'original'


def test_parts_that_disagree_are_one_sentence():
    with pytest.raises(ValueError, match='load boxes before Resize .* one order'):
        ground_truth_scale(ConcatDataset([as_training(), as_test()]))


def test_images_normalised_in_the_pipeline_are_refused():
    normalize = dict(type='Normalize', mean=[0.0] * 3, std=[1.0] * 3)
    dataset = Images(RESIZE, normalize, LOAD)
    with pytest.raises(ValueError, match="set mean and std of the model's data_pre"):
        ground_truth_scale(ConcatDataset([dataset]))


def test_transforms_of_a_wrapper_come_after_those_of_its_dataset():
    """MultiImageMixDataset has a pipeline of its own."""
    inner = Images(dict(type='LoadImageFromFile'), LOAD)
    mixed = type('Mix', (), dict(dataset=inner))()
    mixed.pipeline = [TRANSFORMS.build(RESIZE)]
    assert ground_truth_scale(inner) == 'original'
    assert ground_truth_scale(mixed) == 'input'


def test_what_a_dataset_reads_from_is_no_dataset():
    dataset = as_training()
    dataset.dataset = [1, 2]
    assert ground_truth_scale(dataset) == 'input'


@pytest.mark.parametrize('name', ['LoadPanopticAnnotations', 'LoadTrackAnnotations'])
def test_other_transforms_that_load_boxes_count_too(name):
    load = type(name, (), {})()
    dataset = Images(RESIZE)
    dataset.pipeline.transforms.insert(0, load)
    assert ground_truth_scale(dataset) == 'input'
    dataset.pipeline.transforms.reverse()
    assert ground_truth_scale(dataset) == 'original'


def test_boxes_rotated_with_their_image_are_known():
    assert ground_truth_scale(Images(LOAD, dict(type='mmdet.Rotate'))) == 'input'


def test_one_of_several_sizes_is_no_second_resize():
    either = dict(type='RandomChoice', transforms=[[RESIZE], [RESIZE]])
    assert ground_truth_scale(Images(either, LOAD)) == 'original'


def test_parts_with_other_information_have_one_list_of_classes():
    """mmdet's ConcatDataset then gives a list where others give names."""
    parts = [as_test(), as_test()]
    for part in parts:
        part._metainfo = dict(classes=('cat', 'dog'), palette=[id(part)])
    assert metainfo_of(MMDetConcat(parts))['classes'] == ('cat', 'dog')
    parts[1]._metainfo = dict(classes=('dog', 'cat'))
    with pytest.raises(ValueError, match='name different classes'):
        metainfo_of(MMDetConcat(parts))


def test_boxes_flipped_with_their_image_are_not_flipped_again():
    flip = dict(type='RandomFlip', prob=1.0)
    assert ground_truth_scale(Images(LOAD, flip)) == 'input'
    assert ground_truth_scale(Images(RESIZE, flip, LOAD)) == 'original'


@pytest.mark.parametrize(
    'steps, words',
    [
        (
            [dict(type='RandomCrop', crop_size=(8, 8)), LOAD],
            'nothing says where it cuts',
        ),
        (
            [dict(type='Pad', size=(64, 64)), dict(type='RandomFlip', prob=1.0), LOAD],
            'flips images after it pads them',
        ),
        (
            [dict(type='mmdet.RandomShift'), LOAD],
            'RandomShift, and nothing says where it',
        ),
        ([dict(type='mmdet.Rotate'), LOAD], 'Rotate, and nothing says where it moves'),
        ([dict(type='mmdet.Expand'), LOAD], 'Expand, and nothing says where it moves'),
        ([LOAD, dict(type='mmdet.Expand')], 'Expand, and nothing says where it moves'),
        ([RESIZE, LOAD], 'Resize and Resize, and each notes its own scale alone'),
        ([dict(type='TestTimeAug', transforms=[[LOAD]])], 'several inputs of an image'),
        (
            [dict(type='mmdet.MultiBranch', branch_field=['a'], a=LOAD)],
            'several inputs of',
        ),
    ],
)
def test_a_pipeline_after_which_boxes_are_not_known_is_refused(steps, words):
    with pytest.raises(ValueError, match=words):
        ground_truth_scale(Images(RESIZE, *steps))


def test_flips_that_samples_do_not_tell_of_are_refused():
    flip = dict(type='RandomFlip', prob=0.5)
    silent = dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'scale_factor'))
    told = dict(silent, meta_keys=('img_id', 'scale_factor', 'flip', 'flip_direction'))
    with pytest.raises(ValueError, match="do not say which; add 'flip'"):
        ground_truth_scale(Images(RESIZE, flip, LOAD, silent))
    with pytest.raises(ValueError, match="do not say which; add 'flip'"):
        ground_truth_scale(ConcatDataset([Images(RESIZE, flip, LOAD, silent)]))
    assert ground_truth_scale(Images(RESIZE, flip, LOAD, told)) == 'original'
    # Boxes that are there before are flipped along.
    assert ground_truth_scale(Images(LOAD, RESIZE, flip, silent)) == 'input'


@pytest.fixture
def mask_rcnn():
    """A tiny Mask R-CNN."""
    cfg = detector_config('faster-rcnn', 'resnet')
    full = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py').model
    cfg.type = 'MaskRCNN'
    for name in ('mask_roi_extractor', 'mask_head'):
        cfg.roi_head[name] = full.roi_head[name]
    cfg.roi_head.mask_roi_extractor.out_channels = 16
    cfg.roi_head.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=5)
    cfg.train_cfg.rcnn.mask_size = 28
    cfg.test_cfg.rcnn.mask_thr_binary = 0.5
    torch.manual_seed(0)
    return MODELS.build(cfg).eval()


def test_a_mask_model_on_truth_without_masks_is_one_sentence(mask_rcnn):
    oracle, batch = oracle_of(mask_rcnn), batch_of()
    assert 'masks' not in batch['data_samples'][0].gt_instances
    logger = logging.getLogger()
    with pytest.raises(ValueError, match='need masks, and .*with_mask=True') as error:
        try_attacks([PGD(eps=4)], oracle, batch, True, logger)
    assert '\n' not in str(error.value)
    # Noise asks for no loss.
    assert try_attacks([RandomNoise(eps=4)], oracle, batch, False, logger)[0]


def test_a_hook_on_a_mask_model_says_the_same(mask_rcnn):
    runner = SimpleNamespace(model=mask_rcnn)
    with pytest.raises(ValueError, match='need masks, and .*with_mask=True'):
        AttackHook(PGD(eps=4)).before_test_iter(runner, 0, batch_of())


def test_other_errors_of_a_head_are_not_taken_for_missing_truth():
    (sample,) = batch_of()['data_samples']
    with pytest.raises(AttributeError, match='no masks_conv'), truth_needed(sample):
        sample.gt_instances.masks = torch.zeros(len(sample.gt_instances))
        raise AttributeError('no masks_conv')
    with pytest.raises(KeyError), truth_needed(sample):
        raise KeyError('stride')
