"""The hook in mmengine's own loops, on the generated set in VOC layout."""

import pytest
import torch
from conftest import ask, detector_config
from mmengine.config import Config
from mmengine.runner import Runner

from mmdiff import PGD
from mmdiff.datasets.toy_shapes import CLASSES, make_toy_voc
from mmdiff.engine import AttackHook
from mmdiff.engine.hooks.attack_hook import ground_truth_scale


@pytest.fixture(scope='session')
def toy_root(tmp_path_factory):
    return make_toy_voc(tmp_path_factory.mktemp('data') / 'toy', 12, 4, size=64)


def make_runner(toy_root, work_dir, head='faster-rcnn', scale=(96, 96), **kwargs):
    """A Runner on images that are resized, so that file and input scales differ."""
    load = [dict(type='LoadImageFromFile')]
    resize = [dict(type='Resize', scale=scale, keep_ratio=True)]
    boxes = [dict(type='LoadAnnotations', with_bbox=True)]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    pack = [dict(type='PackDetInputs', meta_keys=keys)]

    def loader(split, pipeline, **args):
        return dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(
                type='VOCDataset',
                data_root=str(toy_root),
                ann_file=f'ImageSets/Main/{split}.txt',
                data_prefix=dict(sub_data_root=''),
                metainfo=dict(classes=CLASSES),
                pipeline=pipeline,
                **args,
            ),
        )

    model = detector_config(head, 'diffusion')
    bbox_head = model.roi_head.bbox_head if 'roi_head' in model else model.bbox_head
    bbox_head.num_classes = len(CLASSES)
    test = loader('val', load + resize + boxes + pack, test_mode=True)
    metric = dict(type='VOCMetric', metric='mAP', eval_mode='area')
    cfg = dict(
        model=model,
        work_dir=str(work_dir),
        default_scope='mmdet',
        train_dataloader=loader('train', load + boxes + resize + pack),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        val_dataloader=test,
        val_cfg=dict(),
        val_evaluator=metric,
        test_dataloader=test,
        test_cfg=dict(),
        test_evaluator=metric,
        visualizer=dict(type='DetLocalVisualizer', vis_backends=[]),
        log_level='WARNING',
        randomness=dict(seed=0),
        experiment_name=work_dir.name,
        **kwargs,
    )
    return Runner.from_cfg(Config(cfg))


def losses_on(runner, images):
    """Mean loss over the test set, on given images."""
    values = []
    for batch, inputs in zip(runner.test_dataloader, images):
        question = ask(PGD(), runner.model, batch)
        values.append(question.losses([x.float() for x in inputs], 0, 0))
    return torch.cat(values).mean()


@pytest.mark.parametrize('stage', ['val', 'test'])
@pytest.mark.parametrize('head', ['faster-rcnn', 'fcos'])
def test_hook_attacks_the_inputs_of_the_loop(toy_root, tmp_path, stage, head):
    hook = dict(type='mmdiff.AttackHook', attack=dict(type='PGD', eps=8, steps=2))
    runner = make_runner(toy_root, tmp_path, head, custom_hooks=[hook])
    seen = []
    step = f'{stage}_step'
    original = getattr(runner.model, step)

    def spy(data):
        seen.append([x.clone() for x in data['inputs']])
        return original(data)

    setattr(runner.model, step, spy)
    metrics = getattr(runner, stage)()
    assert 'pascal_voc/mAP' in metrics
    clean = [batch['inputs'] for batch in runner.test_dataloader]
    assert len(seen) == len(clean) == 2
    for attacked, images in zip(seen, clean):
        for adv, x in zip(attacked, images):
            assert 0 < (adv - x.float()).abs().max() <= 8
    assert losses_on(runner, seen) > losses_on(runner, clean)


def test_hook_leaves_other_stages_alone(toy_root, tmp_path):
    hook = dict(
        type='mmdiff.AttackHook', attack=dict(type='PGD', steps=1), stages=['test']
    )
    runner = make_runner(toy_root, tmp_path, custom_hooks=[hook])
    runner.val()
    hook = next(h for h in runner.hooks if isinstance(h, AttackHook))
    assert hook.stats.images == 0
    runner.test()
    assert hook.stats.images == 4 and hook.stats.grad_evals == 4
    runner.test()  # each run has an account of its own
    assert hook.stats.images == 4
    with pytest.raises(ValueError, match="only 'val' and 'test'"):
        AttackHook(dict(type='PGD'), stages=['train'])


def test_metric_sees_the_untouched_ground_truth(toy_root, tmp_path):
    """A detector that reports the ground truth scores 1 under attack too."""
    hook = dict(type='mmdiff.AttackHook', attack=dict(type='PGD', steps=1))
    runner = make_runner(toy_root, tmp_path, custom_hooks=[hook])
    original = runner.model.test_step

    def oracle(data):
        samples = original(data)
        for sample in samples:
            boxes = type(sample.gt_instances)()
            boxes.bboxes = sample.gt_instances.bboxes
            boxes.labels = sample.gt_instances.labels
            boxes.scores = torch.ones(len(boxes.labels))
            sample.pred_instances = boxes
        return samples

    runner.model.test_step = oracle
    assert runner.test()['pascal_voc/mAP'] == 1


def test_scale_of_the_ground_truth_is_read_off_the_pipeline(toy_root, tmp_path):
    runner = make_runner(toy_root, tmp_path)
    assert ground_truth_scale(runner.test_dataloader.dataset) == 'original'
    assert ground_truth_scale(runner.train_dataloader.dataset) == 'input'


@pytest.mark.slow
def test_train_resume_and_inferencer(toy_root, tmp_path):
    """A checkpoint of one epoch resumes, tests, and serves mmdet's DetInferencer."""
    from mmdet.apis import DetInferencer

    runner = make_runner(toy_root, tmp_path)
    runner.train()
    file = tmp_path / 'epoch_1.pth'
    again = make_runner(toy_root, tmp_path / 'again', load_from=str(file))
    assert again.test() == runner.test()
    config = tmp_path / 'config.py'
    runner.cfg.dump(config)
    inferencer = DetInferencer(str(config), str(file), device='cpu')
    image = next((toy_root / 'JPEGImages').iterdir())
    result = inferencer(str(image), no_save_vis=True)
    assert set(result['predictions'][0]) >= {'labels', 'scores', 'bboxes'}


def test_corrupt_image_is_named(toy_root, tmp_path):
    import shutil

    root = tmp_path / 'copy'
    shutil.copytree(toy_root, root)
    image = next(iter(sorted((root / 'JPEGImages').glob('val*'))))
    image.write_bytes(image.read_bytes()[:40])
    hook = dict(type='mmdiff.AttackHook', attack=dict(type='PGD', steps=1))
    runner = make_runner(root, tmp_path, custom_hooks=[hook])
    with pytest.raises(Exception, match=image.name):
        runner.test()
