"""Right numbers on detectors of mmdet that behave in their own ways."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import ask, batch_of, run
from mmdet.models.backbones.trident_resnet import TridentConv
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmengine.hub import get_config
from mmengine.logging import MessageHub
from mmengine.structures import PixelData

from mmdiff import DAG, PGD
from mmdiff.attacks import APGD, MIM, RandomNoise, Square, oracle_of
from mmdiff.attacks.oracle.ground_truth import to_input_scale


def without_weights(config):
    """Remove what would be loaded from the network."""
    if isinstance(config, dict):
        for key, value in config.items():
            without_weights(value)
            if key == 'init_cfg' and 'Pretrained' in str(value):
                config[key] = None
    elif isinstance(config, list | tuple):
        for value in config:
            without_weights(value)


def build(name, **changes):
    """A detector of mmdet with random weights, in eval mode."""
    cfg = get_config(f'mmdet::{name}.py')
    without_weights(cfg.model)
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.eval()


@pytest.fixture(scope='module')
def detr():
    return build('detr/detr_r50_8xb2-150e_coco')


# Each divides by a number of positives that it averages over the ranks.
REDUCING = ('fcos', 'atss', 'gfl', 'rtmdet', 'yolox', 'tood')
NAMES = {
    'fcos': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
    'atss': 'atss/atss_r50_fpn_1x_coco',
    'gfl': 'gfl/gfl_r50_fpn_1x_coco',
    'rtmdet': 'rtmdet/rtmdet_tiny_8xb32-300e_coco',
    'yolox': 'yolox/yolox_tiny_8xb8-300e_coco',
    'tood': 'tood/tood_r50_fpn_1x_coco',
}


@pytest.mark.parametrize('name', REDUCING)
def test_losses_see_no_other_rank(name, monkeypatch):
    """On two ranks the objective is that of one, and no rank waits for another."""
    model, batch = build(NAMES[name]), batch_of([(3, 64, 64)], (2,))
    images = [x.float() for x in batch['inputs']]
    oracle = oracle_of(model)
    with oracle.attacked():
        alone = ask(PGD(), model, batch).losses(images, 0, 0)

    def reduce(*args, **kwargs):
        raise AssertionError('the loss talks to other ranks')

    monkeypatch.setattr(dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(dist, 'get_world_size', lambda group=None: 2)
    monkeypatch.setattr(dist, 'all_reduce', reduce)
    result = run(PGD(eps=4, steps=1, random_start=False), model, batch)
    assert result.stats.losses[0] == pytest.approx(alone.sum().item(), rel=1e-5)
    assert dist.is_initialized() and dist.get_world_size() == 2


@pytest.mark.parametrize(
    'change',
    [
        lambda x: (x.float() - 120) / 58,  # Normalize in the pipeline
        lambda x: x.float() / 255,
        lambda x: x.int() * 257,  # 16 bit
        # As LoadImageFromFile gives it; torch 2.1 has no such tensors.
        lambda x: (x.int() * 257).to(getattr(torch, 'uint16', torch.int32)),
    ],
)
def test_images_that_are_not_0_to_255_are_refused(make_detector, change):
    batch = batch_of()
    batch['inputs'] = [change(x) for x in batch['inputs']]
    model = make_detector('fcos', 'resnet')
    for attack in (PGD(steps=1), RandomNoise(), DAG(steps=1), Square(steps=1)):
        with pytest.raises(ValueError, match='let the data_preprocessor normalise'):
            attack(model, batch)


def test_dark_images_are_attacked(make_detector):
    batch = batch_of()
    for dark in (torch.zeros(3, 64, 96), torch.ones(3, 64, 96).byte()):
        batch['inputs'] = [dark]
        (adv,) = RandomNoise(eps=4)(make_detector('fcos', 'resnet'), batch)
        assert (adv - dark).abs().max() == 4


def padded(batch, side=128, value=114):
    """As ``Pad(size=...)`` at the end of a test pipeline leaves a batch."""
    inputs, samples = [], []
    for x, sample in zip(batch['inputs'], batch['data_samples']):
        canvas = torch.full((3, side, side), value, dtype=torch.uint8)
        canvas[:, : x.shape[1], : x.shape[2]] = x
        sample = copy.deepcopy(sample)
        sample.set_metainfo(dict(img_shape=(side, side)))
        inputs.append(canvas)
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


@pytest.mark.parametrize(
    'attack',
    [
        PGD(eps=8, steps=2),
        PGD(eps=100, steps=2, norm='l2'),
        APGD(eps=100, steps=3, norm='l2'),
        MIM(eps=8, steps=2),
        Square(eps=8, steps=3),
        Square(eps=100, steps=3, norm='l2'),
        RandomNoise(eps=8),
        RandomNoise(eps=100, norm='l2'),
        DAG(steps=2, active_iou=-1.0, active_score=-1.0, max_proposals=50),
    ],
    ids=lambda attack: f'{attack.name}-{attack.norm}',
)
@pytest.mark.parametrize('scale', [1.0, 0.5])
def test_padding_by_the_pipeline_is_left_alone(make_detector, attack, scale):
    model = make_detector('retinanet', 'resnet')
    batch = padded(batch_of([(3, 64, 96)], scale=scale))
    (adv,) = attack(model, batch)
    change = (adv - batch['inputs'][0]).abs()
    assert change[:, :64, :96].max() > 0
    assert change[:, 64:].max() == change[:, :, 96:].max() == 0


def test_an_l2_budget_and_a_random_start_are_those_of_the_image(make_detector):
    """What is padded does not change which noise an image gets, nor how much."""
    model, batch = make_detector('retinanet', 'resnet'), batch_of([(3, 64, 96)])
    attack = RandomNoise(eps=100, norm='l2')
    (plain,), (on_canvas,) = attack(model, batch), attack(model, padded(batch))
    assert torch.equal(plain, on_canvas[:, :64, :96])


def test_masks_are_resized_to_the_image_and_not_to_its_padding():
    sample = batch_of([(3, 64, 96)], num_items=(1,), scale=0.5)['data_samples'][0]
    mask = np.zeros((1, 128, 192), np.uint8)
    mask[:, 20:40, 10:50] = 1
    sample.gt_instances.masks = BitmapMasks(mask, 128, 192)
    sample.gt_instances.bboxes = torch.tensor([[10.0, 20, 50, 40]])
    sample.set_metainfo(dict(img_shape=(128, 128)))
    scaled = to_input_scale(sample, 'original').gt_instances
    assert scaled.bboxes.tolist() == [[5, 10, 25, 20]]
    assert scaled.masks.masks.shape == (1, 128, 128)
    rows, columns = np.nonzero(scaled.masks.masks[0])
    assert (columns.min(), rows.min()) == (5, 10)
    assert (columns.max() + 1, rows.max() + 1) == (25, 20)


def test_flips_are_those_of_the_image_and_not_of_its_padding():
    sample = batch_of([(3, 64, 96)], num_items=(1,))['data_samples'][0]
    sample.gt_instances.bboxes = torch.tensor([[10.0, 20, 50, 40]])
    sample.set_metainfo(
        dict(img_shape=(128, 128), flip=True, flip_direction='horizontal')
    )
    boxes = to_input_scale(sample, 'original').gt_instances.bboxes
    assert boxes.tolist() == [[46, 20, 86, 40]]


def test_boxes_of_an_image_with_a_border_are_moved_by_it(make_detector):
    """CenterNet's test pipeline pads around the image and says where it is."""
    (sample,) = batch_of([(3, 64, 96)], num_items=(1,))['data_samples']
    sample.gt_instances.bboxes = torch.tensor([[10.0, 20, 50, 40]])
    meta = dict(img_shape=(128, 128), border=np.array([30.0, 94, 16, 112]))
    sample.set_metainfo(dict(meta, ori_shape=(64, 96), scale_factor=None))
    boxes = to_input_scale(sample, 'original').gt_instances.bboxes
    assert boxes.tolist() == [[26, 50, 66, 70]]
    batch = dict(
        inputs=[torch.full((3, 128, 128), 50, dtype=torch.uint8)], data_samples=[sample]
    )
    (adv,) = PGD(eps=8, steps=1)(make_detector('fcos', 'resnet'), batch)
    rows, columns = (adv != 50).any(0).nonzero().T
    assert rows.min() >= 30 and rows.max() < 94
    assert columns.min() >= 16 and columns.max() < 112


def test_a_pipeline_that_cuts_images_is_refused(make_detector):
    batch = batch_of([(3, 64, 64)])
    batch['data_samples'][0].set_metainfo(dict(ori_shape=(64, 96)))
    with pytest.raises(ValueError, match='cuts images and does not say where'):
        PGD(steps=1)(make_detector('fcos', 'resnet'), batch)


def test_dropout_by_a_function_is_still(detr):
    """``nn.MultiheadAttention`` drops by its own flag."""
    batch = batch_of([(3, 64, 64)], (2,))
    images = [x.float() for x in batch['inputs']]
    values = {
        ask(PGD(seed=seed), detr, batch).losses(images, 0, 0).item()
        for seed in range(3)
    }
    assert len(values) == 1


def test_drawn_losses_are_drawn_alike_where_the_best_iterate_is_kept():
    """DINO draws denoising queries: the highest of other draws would be luck."""
    model = build('dino/dino-4scale_r50_8xb2-12e_coco', num_queries=20)
    batch = batch_of([(3, 64, 64)], (2,))
    attack = PGD(eps=4, steps=3)
    result = run(attack, model, batch)
    again = ask(attack, model, batch).losses(result.inputs, 0, 0)
    assert again.tolist() == pytest.approx(result.losses, rel=1e-4)


def test_a_loss_with_a_memory_leaves_the_model_as_it_was():
    """Seesaw counts samples; another loss may keep Python numbers and lists."""
    changes = {
        'roi_head.bbox_head.loss_cls': dict(
            type='SeesawLoss', p=0.8, q=2.0, num_classes=80
        )
    }
    model = build('faster_rcnn/faster-rcnn_r50_fpn_1x_coco', **changes)
    loss_cls = model.roi_head.bbox_head.loss_cls
    forward = loss_cls.forward

    def remembering(*args, **kwargs):
        loss_cls.calls += 1
        loss_cls.seen.append(loss_cls.calls)
        losses = forward(*args, **kwargs)
        return {k: v * loss_cls.calls for k, v in losses.items()}

    loss_cls.calls, loss_cls.seen, loss_cls.forward = 0, [], remembering
    before = loss_cls.cum_samples.clone()
    buffer, seen = loss_cls.cum_samples, loss_cls.seen
    batch = batch_of([(3, 64, 64)] * 2, (2, 1))
    first = PGD(eps=4, steps=2)(model, batch)
    assert loss_cls.cum_samples is buffer and torch.equal(buffer, before)
    assert loss_cls.calls == 0 and loss_cls.seen is seen and seen == []
    assert loss_cls.forward is remembering
    second = PGD(eps=4, steps=2)(model, batch)
    assert all(map(torch.equal, first, second))
    alone = PGD(eps=4, steps=2)(model, batch_of([(3, 64, 64)], (1,), first_id=1))
    assert ((alone[0] - second[1]).abs() < 1e-2).float().mean() > 0.9


def test_losses_that_ask_for_the_epoch_hear_that_training_is_over():
    model, batch = build(NAMES['tood']), batch_of([(3, 64, 64)], (2,))
    hub = MessageHub.get_current_instance()
    hub.runtime_info.pop('epoch', None)
    late = run(PGD(eps=4, steps=1), model, batch).stats.losses[0]
    assert hub.get_info('epoch') is None
    losses = {}
    for epoch in (0, 10):  # TOOD assigns otherwise in its first 4 epochs
        hub.update_info('epoch', epoch)
        losses[epoch] = run(PGD(eps=4, steps=1), model, batch).stats.losses[0]
    hub.runtime_info.pop('epoch')
    assert late == losses[10] != losses[0]


@pytest.fixture(scope='module')
def ssd():
    return build('ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco')


@pytest.mark.parametrize('objective', ['vanishing', 'fabrication'])
def test_a_flat_loss_without_objects_is_one_sentence(ssd, objective):
    batch = batch_of([(3, 64, 64)], (2,))
    with pytest.raises(ValueError, match='no loss for an image without objects') as e:
        PGD(objective=objective)(ssd, batch)
    assert str(e.value).endswith("use objective='total' or 'cls' or 'reg'.")


def test_cwa_that_finds_nothing_to_weight_is_one_sentence(ssd):
    with pytest.raises(ValueError, match="'cwa' found no classification loss of Sin"):
        PGD(objective='cwa')(ssd, batch_of([(3, 64, 64)], (2,)))


def test_an_error_of_the_model_itself_is_seen_as_that(make_detector):
    model = make_detector('fcos', 'resnet')

    def too_small(x):
        raise RuntimeError('Kernel size can not be greater than actual input size')

    model.backbone.forward = too_small
    with pytest.raises(RuntimeError, match='Kernel size'):
        DAG(steps=1)(model, batch_of())


def test_a_loss_that_underflows_is_not_taken_for_a_flat_one(make_detector):
    """A head that is sure of nothing has a loss of 0 without objects."""
    model = make_detector('retinanet', 'resnet')
    model.bbox_head.retina_cls.bias.data.fill_(-200)
    result = run(PGD(steps=1, objective='fabrication'), model, batch_of())
    assert result.stats.losses[0] == 0


@pytest.mark.parametrize('scale', [1 / 127.5, 1 / 58])
def test_normalised_images_without_negative_values_are_refused(make_detector, scale):
    batch = batch_of()
    batch['inputs'] = [x * scale for x in batch['inputs']]
    with pytest.raises(ValueError, match='let the data_preprocessor normalise'):
        PGD(steps=1)(make_detector('fcos', 'resnet'), batch)


def test_meta_information_that_does_not_tell_the_padding_is_refused(make_detector):
    model = make_detector('fcos', 'resnet')
    batch = padded(batch_of([(3, 64, 96)]))
    del batch['data_samples'][0].ori_shape
    with pytest.raises(ValueError, match="add 'ori_shape' and 'scale_factor'"):
        PGD(steps=1)(model, batch)
    batch = padded(batch_of([(3, 64, 96)]))
    batch['data_samples'][0].set_metainfo(
        dict(border=np.array([0.0, 60, 0, 80]), scale_factor=None)
    )
    with pytest.raises(ValueError, match='resized before its border was added'):
        PGD(steps=1)(model, batch)


@pytest.mark.parametrize('scale', [0.5, np.float32(0.5), np.array([0.5] * 4)])
def test_scales_of_other_forms_are_understood(scale):
    sample = batch_of([(3, 64, 96)], num_items=(1,), scale=0.5)['data_samples'][0]
    expected = to_input_scale(sample, 'original').gt_instances.bboxes
    sample.set_metainfo(dict(scale_factor=scale))
    boxes = to_input_scale(sample, 'original').gt_instances.bboxes
    assert torch.equal(boxes, expected)


def test_maps_of_classes_lie_where_the_image_is():
    sample = batch_of([(3, 64, 96)], num_items=(1,), scale=0.5)['data_samples'][0]
    classes = torch.zeros(1, 128, 192, dtype=torch.uint8)
    classes[:, 20:40, 10:50] = 3
    sample.gt_sem_seg = PixelData(sem_seg=classes)
    sample.set_metainfo(dict(img_shape=(128, 128)))
    placed = to_input_scale(sample, 'original').gt_sem_seg.sem_seg[0]
    rows, columns = (placed == 3).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 19, 5, 24)
    assert (placed[64:] == 255).all() and (placed[:, 96:] == 255).all()


def test_masks_reach_the_loss_padded_as_in_training(make_detector):
    """In evaluation mmdet's preprocessor pads images alone."""
    model = make_detector('fcos', 'resnet')
    model.data_preprocessor.pad_mask = True
    batch = batch_of([(3, 40, 72)], num_items=(1,))
    masks = BitmapMasks(np.ones((1, 40, 72), np.uint8), 40, 72)
    batch['data_samples'][0].gt_instances.masks = masks
    oracle = oracle_of(model)
    group = oracle.gather(batch)
    seen = oracle.preprocess(group.pixels, group.samples, group.frames)
    shape = seen['data_samples'][0].gt_instances.masks.masks.shape
    assert shape == (1, 64, 96) == (1, *seen['inputs'].shape[-2:])


def test_dag_refuses_scores_that_are_not_a_softmax_over_classes_and_background():
    changes = {
        'roi_head.bbox_head.loss_cls': dict(
            type='SeesawLoss', p=0.8, q=2.0, num_classes=80
        )
    }
    model = build('faster_rcnn/faster-rcnn_r50_fpn_1x_coco', **changes)
    with pytest.raises(ValueError, match='DAG attacks proposals'):
        DAG(steps=1)(model, batch_of([(3, 64, 64)], (2,)))


def test_state_of_samplers_is_put_back(make_detector):
    """Libra's sampler writes in itself, and is no module."""
    model = make_detector('faster-rcnn', 'resnet')
    sampler = model.roi_head.bbox_sampler
    sample = sampler.sample

    def remembering(*args, **kwargs):
        sampler.num += 1
        return sample(*args, **kwargs)

    sampler.sample, before = remembering, sampler.num
    first = PGD(eps=4, steps=2)(model, batch_of())
    assert sampler.num == before
    assert torch.equal(PGD(eps=4, steps=2)(model, batch_of())[0], first[0])


def test_losses_that_draw_from_numpy_and_python_repeat(make_detector):
    model = make_detector('fcos', 'resnet')
    loss = model.loss

    def drawing(*args, **kwargs):
        factor = 1 + np.random.rand() + random.random()
        return {k: v * factor for k, v in loss(*args, **kwargs).items()}

    model.loss = drawing
    np.random.seed(3)
    random.seed(3)
    states = np.random.get_state()[1].tolist(), random.getstate()
    first = run(PGD(eps=4, steps=2), model, batch_of())
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states
    np.random.seed(4)
    random.seed(4)
    assert run(PGD(eps=4, steps=2), model, batch_of()).losses == first.losses


def test_tridentnet_is_attacked_by_the_branch_that_predicts():
    """In training it learns by three branches, with three times the samples."""
    name = 'tridentnet/tridentnet_r50-caffe_1x_coco'
    model = build(name, **{'test_cfg.rpn.nms_pre': 50})
    for module in model.modules():  # mmdet leaves these as memory was
        if isinstance(module, TridentConv):
            torch.nn.init.kaiming_normal_(module.weight)
    result = run(PGD(eps=4, steps=1), model, batch_of([(3, 64, 64)], (2,)))
    assert result.stats.changed == 1 and result.losses[0] > 0
    assert not model.training
