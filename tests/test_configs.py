"""Every config builds, trains one step, is attacked one step."""

import ast
import copy
import inspect
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import batch_of, needs_torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS as MODELS_OF_CLASSES
from mmpretrain.structures import DataSample

from mmdiff import DAG, PGD, DiffusionModel, config_path
from mmdiff.attacks import oracle_of
from mmdiff.diffusion.converters.adm import PRESETS, adm_unet_config
from mmdiff.engine.presets import PRESETS as PRESETS_OF_ATTACKS
from mmdiff.engine.presets import protocol_of
from mmdiff.registry import ATTACKS
from mmdiff.registry import MODELS as MMDIFF
from mmdiff.utils.modules import unwrap

ROOT = Path(__file__).parents[1] / 'configs'
DETECTION = sorted(path.name for path in (ROOT / 'detection').glob('*.py'))
CLASSIFICATION = sorted(path.name for path in (ROOT / 'classification').glob('*.py'))
ADVERSARIAL = sorted(path.name for path in (ROOT / 'adversarial_training').glob('*.py'))
PRETRAIN = sorted(path.name for path in (ROOT / 'pretrain').glob('*.py'))


# Networks of published priors, which no test can download: by a word of the source,
# the published shape, and a narrow one of the same family that is quick to run.
ADM = dict(PRESETS['imagenet256-uncond'])
SD_UNET = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
SD_VAE = dict(
    down_block_types=('DownEncoderBlock2D',) * 4,
    up_block_types=('UpDecoderBlock2D',) * 4,
)
EDM = dict(
    type='EDMPrecond',
    img_resolution=32,
    img_channels=3,
    label_dim=10,
    model_type='SongUNet',
    augment_dim=9,
    channel_mult=[2, 2, 2],
)
DDPM_CIFAR10 = dict(
    type='UNet2DModel',
    sample_size=32,
    block_out_channels=(128, 256, 256, 256),
    down_block_types=('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D', 'DownBlock2D'),
    up_block_types=('UpBlock2D', 'UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'),
    attention_head_dim=None,
)
PUBLISHED = {
    'ddpm-cifar10': (
        DDPM_CIFAR10,
        {**DDPM_CIFAR10, 'block_out_channels': (32,) * 4, 'layers_per_block': 1},
    ),
    'adm-imagenet256': (
        dict(type='UNet2DModel', **adm_unet_config(ADM)),
        dict(type='UNet2DModel', **adm_unet_config({**ADM, 'num_channels': 64})),
    ),
    'edm-cifar10': (EDM, {**EDM, 'model_channels': 32}),
    'stable-diffusion-v1-5': (
        dict(
            type='LatentDiffusion',
            unet={**SD_UNET, 'block_out_channels': (320, 640, 1280, 1280)},
            vae={**SD_VAE, 'block_out_channels': (128, 256, 512, 512)},
        ),
        dict(
            type='LatentDiffusion',
            unet=dict(
                block_out_channels=(16, 16, 32, 32),
                attention_head_dim=4,
                norm_num_groups=4,
                cross_attention_dim=8,
            ),
            vae={**SD_VAE, 'block_out_channels': (4,) * 4, 'norm_num_groups': 2},
        ),
    ),
}


def published(cfg):
    """Published and narrow shape of a config's prior, or ``None``."""
    source = cfg.model.backbone.model
    source = source if isinstance(source, str) else source.source
    return next((v for k, v in PUBLISHED.items() if k in source), None)


@cache
def merged(path):
    """The merged config of a file, read once: whoever changes it takes a copy."""
    return Config.fromfile(path)


def load(folder, name):
    cfg = copy.deepcopy(merged(ROOT / folder / name))
    if folder == 'classification' and published(cfg):
        _, narrow = published(cfg)
        cfg.model.backbone.model.source = narrow
        (tap,) = DiffusionModel.from_pretrained(narrow).resolve_taps(
            cfg.model.backbone.out_indices
        )
        cfg.model.head.in_channels = tap.channels
        if 'adm' in name:  # shown at 64 px: a sixteenth of the pixels
            cfg.model.head.pool = min(cfg.model.head.pool, 4)
    if folder == 'detection' and published(cfg):
        _, narrow = published(cfg)
        cfg.model.backbone.model.source = narrow
        taps = DiffusionModel.from_pretrained(narrow).resolve_taps(
            cfg.model.backbone.out_indices
        )
        cfg.model.neck.in_channels = [tap.channels for tap in taps]
    return cfg


@pytest.mark.parametrize('name', DETECTION)
def test_neck_fits_the_published_network(name):
    cfg = merged(ROOT / 'detection' / name)
    if not published(cfg):
        pytest.skip('its prior is shipped: the next test runs on it')
    if 'sd15' in name:
        needs_torch((2, 4), 'half precision on a CPU')
    full, _ = published(cfg)
    with torch.device('meta'):
        model = DiffusionModel.from_pretrained(full)
    taps = model.resolve_taps(cfg.model.backbone.out_indices)
    assert [tap.channels for tap in taps] == cfg.model.neck.in_channels
    assert [tap.stride for tap in taps] == cfg.model.neck.in_strides
    assert cfg.model.data_preprocessor.pad_size_divisor % model.total_stride == 0


@pytest.mark.parametrize('name', DETECTION)
def test_detector_trains_and_is_attacked(name):
    cfg = load('detection', name)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], 1e-4
    )
    batch = batch_of([(3, 64, 96)] * 2, (2, 1))
    before = {k: v.clone() for k, v in model.named_parameters()}
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    optimizer.step()
    changed = {k for k, v in model.named_parameters() if not torch.equal(v, before[k])}
    frozen = not any(k.startswith('backbone') for k in changed)
    assert frozen == ('scratch' not in name and 'finetuned' not in name)
    assert any(k.startswith('neck') for k in changed)
    for attack in (PGD(eps=4, steps=1), DAG(eps=4, steps=1, max_proposals=50)):
        result = attack.run(oracle_of(model.eval()), batch)
        assert torch.isfinite(result.inputs[0]).all()
        if isinstance(attack, PGD):
            assert result.stats.changed == 2 and result.stats.zero_grads == 0


@pytest.mark.parametrize('name', CLASSIFICATION)
def test_the_head_fits_the_published_network(name):
    cfg = merged(ROOT / 'classification' / name)
    full = published(cfg)[0] if published(cfg) else cfg.model.backbone.model.source
    with torch.device('meta' if published(cfg) else 'cpu'):
        model = DiffusionModel.from_pretrained(full)
    (tap,) = model.resolve_taps(cfg.model.backbone.out_indices)
    assert cfg.model.head.in_channels == tap.channels
    assert cfg.model.head.get('pool', 1) <= model.image_size // tap.stride


@pytest.mark.parametrize('name', CLASSIFICATION)
def test_classifier_trains_and_is_attacked(name):
    cfg = load('classification', name)
    if 'adm' in name:
        needs_torch((2, 4), 'half precision on a CPU')
    torch.manual_seed(0)
    model = MODELS_OF_CLASSES.build(dict(cfg.model, _scope_='mmpretrain'))
    model.init_weights()
    learned = {'head', 'backbone'} if 'scratch' in name else {'head'}
    assert {
        k.split('.')[0] for k, p in model.named_parameters() if p.requires_grad
    } == learned
    size = 64 if 'adm' in name or 'toy-classes' in name else 32
    batch = dict(
        inputs=[torch.randint(0, 256, (3, size, size), dtype=torch.uint8)] * 2,
        data_samples=[DataSample().set_gt_label(label) for label in (0, 1)],
    )
    data = model.data_preprocessor(copy.deepcopy(batch), training=True)
    lowest = 0 if 'published' in name else -1
    assert lowest <= data['inputs'].min() < lowest + 0.1 and data['inputs'].max() <= 1
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    before = {k: v.clone() for k, v in model.named_parameters()}
    loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    torch.optim.SGD(trained, 1e-2).step()
    changed = {k for k, v in model.named_parameters() if not torch.equal(v, before[k])}
    assert {k.split('.')[0] for k in changed} == learned
    result = PGD(eps=4, steps=1).run(oracle_of(model.eval()), batch)
    assert result.stats.changed == 2 and result.stats.zero_grads == 0


def test_only_the_published_recipe_has_its_flaws():
    """That of its code: [0, 1], one fresh noise for a batch, no shuffle, no flip."""
    for head in ('linear', 'attention'):
        cfg = {}
        for name in CLASSIFICATION:
            if name.startswith('ddpm') and name.endswith('cifar10.py') and head in name:
                cfg['published' in name] = merged(ROOT / 'classification' / name)
        theirs, ours = cfg[True], cfg[False]
        for one in cfg.values():
            assert one.model.backbone.timestep == 10
            assert one.model.backbone.out_indices == ('down.0',)
            assert not one.model.data_preprocessor.to_rgb  # the set's pixels are RGB
        preprocessor = theirs.model.data_preprocessor
        assert (preprocessor.mean, preprocessor.std) == ([0] * 3, [255] * 3)
        assert ours.model.data_preprocessor.mean == [127.5] * 3
        assert theirs.model.backbone.noise == 'shared'
        assert ours.model.backbone.get('noise', 'fixed') == 'fixed'
        train, better = theirs.train_dataloader, ours.train_dataloader
        assert (train.sampler.shuffle, better.sampler.shuffle) == (False, True)
        assert [step.type for step in train.dataset.pipeline] == ['PackInputs']
        assert 'RandomFlip' in [step.type for step in better.dataset.pipeline]
        optimizer = theirs.optim_wrapper.optimizer
        assert (optimizer.type, optimizer.lr, optimizer.momentum) == ('SGD', 0.01, 0.9)
        steps = theirs.param_scheduler
        assert (steps.type, steps.step_size, steps.gamma) == ('StepLR', 7, 0.1)
        assert theirs.train_cfg.max_epochs == {'linear': 20, 'attention': 100}[head]


def test_imagenet_follows_the_protocol_of_diffssl():
    """Mukhopadhyay et al. 2023: t = 150, block 24, noise in every pass."""
    for head, rate, pool in (('linear', 0.01, 2), ('attention', 0.05, 16)):
        name = f'adm-imagenet256_{head}-head_4xb32-28e_imagenet.py'
        cfg = merged(ROOT / 'classification' / name)
        optimizer = cfg.optim_wrapper.optimizer
        assert (optimizer.lr, optimizer.momentum) == (rate, 0)
        assert (cfg.model.head.pool, cfg.model.head.num_classes) == (pool, 1000)
        backbone = cfg.model.backbone
        assert (backbone.timestep, backbone.noise) == (150, 'fresh')
        for split in ('val', 'test'):
            pipeline = cfg[f'{split}_dataloader'].dataset.pipeline
            assert pipeline[2].crop_size == 256 == pipeline[1].scale


def parts_of(cfg):
    """The configs of a model and of the wrappers around it, the bare model last."""
    parts = [cfg.model]
    while 'model' in parts[-1]:
        parts.append(parts[-1].model)
    return parts


@pytest.mark.parametrize('name', ADVERSARIAL)
def test_adversarial_training_steps(name):
    cfg = copy.deepcopy(merged(ROOT / 'adversarial_training' / name))
    parts = parts_of(cfg)
    bare = parts[-1]
    bare.backbone.pop('init_cfg', None)  # of weights that no test can download
    if parts[0].type == 'mmdiff.AlignedModel' and 'imagenet' in name:
        _, narrow = PUBLISHED['adm-imagenet256']
        parts[0].prior.model.source = narrow
    for part in parts:
        if 'attack' in part:
            part.attack.steps = 1
    if 'roi_head' in bare:
        bare.train_cfg.rpn_proposal.max_per_img = 20
        bare.train_cfg.rcnn.sampler.num = 16
    detects, size = cfg.default_scope == 'mmdet', 32 if 'imagenet' in name else 16
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(0)
        model = MODELS.build(bare) if len(parts) == 1 else MMDIFF.build(cfg.model)
        data = dict(
            inputs=torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8),
            data_samples=[DataSample().set_gt_label(label) for label in (0, 1)],
        )
        if detects:
            height = 96 if '-dra' in name else 64  # the prior sees 0.4 of it
            data = batch_of([(3, height, 96)] * 2, (2, 1))
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-4))
        logged = model.train().train_step(data, optimizer)
    assert torch.isfinite(logged['loss'])
    names = {*logged}
    assert ('loss_alignment' in names) == ('-dra' in name)
    assert ('loss_robust' in names) == ('trades' in name or 'dm-at' in name)
    assert ('carried_noise' in names) == ('free-at' in name)
    if 'inner_after' in names:
        assert logged['inner_after'] != logged['inner_before']
    # What is saved is the bare model's, and what aligns it.
    saved = {key.partition('.')[0] for key in model.state_dict()}
    assert saved <= {'alignment', *(key for key, _ in unwrap(model).named_children())}


def test_robust_detectors_are_tuned_as_the_standard_one_is():
    for path in (ROOT / 'adversarial_training').glob('*_at_1xb8-12e_voc07.py'):
        standard = merged(path.with_name(path.name.replace('_at_', '_')))
        for key in ('train_dataloader', 'optim_wrapper', 'param_scheduler'):
            assert merged(path)[key] == standard[key]
        assert parts_of(merged(path))[-1] == standard.model


@pytest.mark.parametrize('name', PRETRAIN)
def test_pretraining_steps(name):
    cfg = load('pretrain', name)
    source = cfg.model.model.source
    source.update(
        block_out_channels=(16,) * len(source.block_out_channels),
        norm_num_groups=4,
        attn_norm_num_groups=4,
        attention_head_dim=4,
    )
    cfg.model.autocast = None
    model = MODELS.build(cfg.model)
    size = model.diffusion.image_size
    assert size in (32, 128)
    batch = dict(
        inputs=[torch.randint(0, 256, (3, size, size), dtype=torch.uint8)] * 2,
        data_samples=[DataSample().set_gt_label(label) for label in (0, 1)],
    )
    data = model.data_preprocessor(batch, training=True)
    assert data['inputs'].min() >= -1 and data['inputs'].max() <= 1
    loss, logged = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert loss > 0 and 'loss' in logged
    assert all(p.grad is not None for p in model.parameters())
    levels = model(**data, mode='predict')
    assert len(levels) == 2 and all(value > 0 for value in levels[0].values())
    with pytest.raises(ValueError, match="no mode 'tensor'"):
        model(**data)


@pytest.mark.parametrize('path', sorted((ROOT / '_base_' / 'attacks').glob('*.py')))
def test_presets_are_loops_of_attacks_that_build(path):
    assert set(merged(path)) == {'robust_test_cfg'}
    loop = merged(path).robust_test_cfg
    assert loop.type == 'mmdiff.RobustTestLoop' and loop.attacks
    assert all(ATTACKS.build(attack) for attack in loop.attacks)


@pytest.mark.parametrize(
    'path', sorted((ROOT / '_base_' / 'attack_hooks').glob('*.py'))
)
def test_attack_hooks_are_hooks_with_one_attack_that_builds(path):
    (hook,) = merged(path).custom_hooks
    assert hook.type == 'mmdiff.AttackHook' and ATTACKS.build(hook.attack)


# What a Runner takes, and the names that mmdet's own bases leave behind.
RUNNER = {*inspect.signature(Runner.__init__).parameters, 'model_wrapper_cfg'}
OF_MMDET = {
    *('auto_scale_lr', 'backend_args', 'custom_imports', 'data_root', 'dataset_type'),
    *('data_preprocessor', 'test_pipeline', 'train_pipeline', 'vis_backends'),
}


@pytest.mark.parametrize(
    'name',
    [
        *(f'adversarial_training/{name}' for name in ADVERSARIAL),
        *(f'classification/{name}' for name in CLASSIFICATION),
        *(f'detection/{name}' for name in DETECTION),
        *(f'pretrain/{name}' for name in PRETRAIN),
    ],
)
def test_a_merged_config_has_no_helper_names(name):
    assert set(merged(ROOT / name)) <= RUNNER | OF_MMDET


@pytest.mark.parametrize(
    'name, scale',
    [
        ('faster-rcnn_voc07-unet_dfpn_1xb8-6e_voc07.py', (128, 128)),
        ('faster-rcnn_adm-imagenet256_dfpn_1xb8-2e_voc07.py', (256, 256)),
        ('faster-rcnn_sd15_dfpn_8xb2-1x_coco.py', (853, 512)),
    ],
)
def test_image_scale_reaches_every_pipeline(name, scale):
    cfg = merged(ROOT / 'detection' / name)
    for split in ('train', 'val', 'test'):
        pipeline = cfg[f'{split}_dataloader'].dataset.pipeline
        assert [s.scale for s in pipeline if s.type == 'Resize'] == [scale]


def test_the_name_of_a_config_says_batch_and_epochs():
    folders = ROOT / 'detection', ROOT / 'adversarial_training'
    for path in (path for folder in folders for path in folder.glob('*_1xb*')):
        batch, epochs = re.search(r'_1xb(\d+)-(\d+)e_', path.name).groups()
        cfg = merged(path)
        assert cfg.train_dataloader.batch_size == int(batch)
        assert cfg.train_cfg.max_epochs == int(epochs)
        last = cfg.param_scheduler
        last = last[-1] if isinstance(last, list) else last
        assert int(epochs) in (last.get('end'), last.get('total_steps')) or (
            max(last.milestones) < int(epochs)
        )
    for name in CLASSIFICATION:
        batch, epochs = re.search(r'_\dxb(\d+)-(\d+)e_', name).groups()
        cfg = merged(ROOT / 'classification' / name)
        assert cfg.train_dataloader.batch_size == int(batch)
        assert cfg.train_cfg.max_epochs == int(epochs)
    for path in (ROOT / 'pretrain').glob('*_1xb*'):
        batch, iters = re.search(r'_1xb(\d+)-(\d+)it_', path.name).groups()
        cfg = merged(path)
        assert cfg.train_dataloader.batch_size == int(batch)
        assert cfg.train_cfg.max_iters == int(iters) >= cfg.param_scheduler[-1].end


def test_a_diffusion_backbone_is_three_lines():
    text = (ROOT / 'detection/faster-rcnn_toy-unet_dfpn_8xb2-1x_coco.py').read_text()
    statements = ast.parse(text).body[1:]  # without the docstring
    assert len(statements) == 3


# All presets have the one key (see above): each beside one detector is enough.
@pytest.mark.parametrize(
    'detector, preset',
    [(name, PRESETS_OF_ATTACKS[0]) for name in DETECTION]
    + [(DETECTION[0], preset) for preset in PRESETS_OF_ATTACKS[1:]],
)
def test_attack_presets_are_bases_beside_a_detector(detector, preset, tmp_path):
    bases = [config_path(f'detection/{detector}')]
    bases.append(config_path(f'_base_/attacks/{preset}.py'))
    path = tmp_path / 'child.py'
    path.write_text(f'_base_ = {bases}\ntest_cfg = _base_.robust_test_cfg\n')
    cfg = Config.fromfile(path)
    assert cfg.test_cfg.type == 'mmdiff.RobustTestLoop' and cfg.test_cfg.attacks
    assert cfg.test_cfg.get('protocol', 'adaptive') == protocol_of(preset)


def test_configs_are_found_by_name():
    path = Path(config_path(f'detection/{DETECTION[0]}'))
    assert path.name == DETECTION[0] and Config.fromfile(path)
    with pytest.raises(FileNotFoundError, match=f'there are: .*{DETECTION[0]}'):
        config_path('detection/none.py')
