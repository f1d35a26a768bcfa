"""Adversarial training: what it computes, and what it leaves alone."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from attacks.classifiers import make_batch, make_classifier, random_batch
from conftest import batch_of, detector_config
from mmengine.hooks import EMAHook
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS as ROOT
from mmengine.registry import DefaultScope
from mmengine.runner import Runner, load_checkpoint
from torch.utils.data import DataLoader

from mmdiff import PGD, AdversarialModel
from mmdiff.attacks import AttackStats, oracle_of
from mmdiff.engine import AttackHook
from mmdiff.models import FreeATLoss, MadryLoss, ReplayedDataParallel, TRADESLoss
from mmdiff.models.losses.passes import Passes
from mmdiff.models.wrappers.adversarial_model import PATIENCE
from mmdiff.utils.modules import unwrap
from mmdiff.utils.seeding import mix_seed

RESNET = dict(
    type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8, out_indices=(3,)
)
ATTACK = dict(type='mmdiff.PGD', eps=8, steps=2, step_size=3, keep_best=False)
TRADES = dict(type='mmdiff.TRADESLoss', beta=5.0, label_smoothing=0.1)


def classifier():
    return make_classifier(num_classes=3, backbone=RESNET).train()


def batch(count=4):
    return random_batch(count, num_classes=3, size=16)


def optimizer_of(model, lr=0.05):
    return OptimWrapper(torch.optim.SGD(model.parameters(), lr=lr))


def grads_of(model):
    return {name: p.grad for name, p in model.named_parameters()}


def labels_of(data):
    return torch.cat([sample.gt_label for sample in data['data_samples']])


def ce(model, x, data):
    logits = model(model.data_preprocessor(dict(inputs=x))['inputs'], mode='tensor')
    return F.cross_entropy(logits, labels_of(data))


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], msg=name)


@pytest.mark.parametrize('bn_mode', ['running', 'batch'])
def test_the_step_is_that_of_pgd_at_written_by_hand(bn_mode):
    data, bare = batch(), classifier()
    x0 = data['inputs'].float()
    attacked = copy.deepcopy(bare).train(bn_mode == 'batch')
    x = x0
    for _ in range(2):
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(ce(attacked, x, data), x)
        x = (x + 3 * grad.sign()).clamp(x0 - 8, x0 + 8).clamp(0, 255)
    expected = copy.deepcopy(bare)
    ce(expected, x.detach(), data).backward()

    attack = dict(ATTACK, random_start=False)
    model = AdversarialModel(bare, attack, bn_mode=bn_mode).train()
    flags = [module.training for module in model.modules()]
    losses = model.forward(**data, mode='loss')
    assert all(p.grad is None for p in model.parameters())
    model.parse_losses(losses)[0].backward()
    assert_same(grads_of(bare), grads_of(expected))
    # Running statistics moved once, by the training pass.
    assert_same(dict(bare.named_buffers()), dict(expected.named_buffers()))
    assert [module.training for module in model.modules()] == flags
    assert all(p.requires_grad for p in model.parameters())
    assert losses['inner_after'] > losses['inner_before']


def test_gradients_that_wait_for_the_optimizer_are_left():
    model = AdversarialModel(classifier(), ATTACK, TRADES).train()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    model.forward(**batch(), mode='loss')
    assert all((p.grad == 1).all() for p in model.parameters())


def test_trades_is_its_formula_and_steps_on_both_sides():
    torch.manual_seed(0)
    clean = torch.randn(3, 4, requires_grad=True)
    adversarial = torch.randn(3, 4, requires_grad=True)
    labels = torch.tensor([0, 1, 3])
    losses = TRADESLoss(5.0, 0.1).compare(clean, adversarial, labels)
    p, q = clean.softmax(1), adversarial.softmax(1)
    target = F.one_hot(labels, 4) * 0.9 + 0.1 / 4
    fit = -(target * p.log()).sum(1).mean()
    divergence = (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(losses['loss_clean'], fit)
    torch.testing.assert_close(losses['loss_robust'], 5 * divergence)
    losses['loss_robust'].backward()
    assert clean.grad.any() and adversarial.grad.any()


def test_weights_of_clean_and_adversarial_losses():
    bare = make_classifier(num_classes=3).train()
    data = batch()
    passes = Passes(bare, data, 255 - data['inputs'])
    clean, adversarial = (passes.losses(s)['loss'] for s in ('clean', 'adversarial'))
    losses = MadryLoss(0.7, clean_weight=0.3)(passes)
    torch.testing.assert_close(losses['loss'], 0.7 * adversarial)
    torch.testing.assert_close(losses['clean.loss'], 0.3 * clean)


def test_free_at_carries_its_noise_along_the_gradients_of_training():
    torch.manual_seed(0)
    bare = make_classifier(num_classes=3)
    loss = dict(type='mmdiff.FreeATLoss', replays=2, step_size=3)
    model = AdversarialModel(bare, dict(ATTACK, eps=4), loss).train()
    expected, noise = copy.deepcopy(bare), 0
    data, optimizer = batch(), optimizer_of(model)
    plain = optimizer_of(expected)
    for _ in range(2):  # batches
        logged = model.train_step(data, optimizer)
        for _ in range(2):  # replays
            x = (data['inputs'].float() + noise).clamp(0, 255).detach().requires_grad_()
            plain.update_params(ce(expected, x, data))
            noise = (noise + 3 * x.grad.sign()).clamp(-4, 4)
        assert_same(bare.state_dict(), expected.state_dict())
    assert 0 < logged['carried_noise'] <= 4
    # Another batch, larger and of another size, takes what fits.
    model.train_step(random_batch(5, num_classes=3, size=24), optimizer)
    assert [x.shape[-1] for x in model.adversarial_loss.noise] == [24] * 5
    assert model.adversarial_loss.noise[0].any()


def test_free_at_on_a_detector_whose_images_are_padded():
    loss = dict(type='mmdiff.FreeATLoss', replays=2)
    model = AdversarialModel(detector_config('fcos', 'resnet'), ATTACK, loss).train()
    data = batch_of([(3, 64, 96), (3, 96, 64)], (2, 1))
    logged = model.train_step(data, optimizer_of(model, 1e-4))
    assert logged['carried_noise'] > 7  # one step of the budget, nearly everywhere
    shapes = [tuple(x.shape) for x in model.adversarial_loss.noise]
    assert shapes == [(3, 64, 96), (3, 96, 64)]


def test_the_losses_of_a_detector_are_those_on_the_attacked_images():
    torch.manual_seed(0)
    model = AdversarialModel(detector_config('faster-rcnn', 'resnet'), ATTACK)
    model.init_weights()
    model.train()
    data = batch_of([(3, 64, 96)] * 2, (2, 1))
    before = copy.deepcopy(data['data_samples'])
    torch.manual_seed(1)
    losses = model.forward(**data, mode='loss')
    attack = PGD(8, steps=2, step_size=3, keep_best=False, seed=mix_seed(0, 0, 0))
    adversarial = attack.run_on(model, data, 'input').inputs
    again = Passes(model.model, data, adversarial)
    torch.manual_seed(1)
    for name, value in again.losses('adversarial').items():
        torch.testing.assert_close(losses[name], value)
    for sample, clean in zip(data['data_samples'], before):
        assert sample.gt_instances.bboxes.equal(clean.gt_instances.bboxes)


def test_each_step_draws_its_own_start():
    model = AdversarialModel(classifier(), ATTACK).train()
    seeds = {model._attack_of_step().seed for _ in range(5)}
    assert len(seeds) == 5


def test_attacks_look_at_the_bare_model():
    bare = classifier()
    model = AdversarialModel(bare, ATTACK)
    assert unwrap(model) is bare and oracle_of(model).task == 'classification'
    assert model.head is bare.head  # hooks of mm packages ask for parts


def test_accounts_do_not_grow(monkeypatch):
    alive = weakref.WeakSet()

    class Account(AttackStats):
        __eq__, __hash__ = object.__eq__, object.__hash__

        def __init__(self):
            super().__init__()
            alive.add(self)
            made.append(1)

    made = []
    monkeypatch.setattr('mmdiff.attacks.attack.AttackStats', Account)
    model = AdversarialModel(make_classifier(num_classes=3), ATTACK).train()
    optimizer, data = optimizer_of(model), batch(2)
    for _ in range(3):
        model.train_step(data, optimizer)
    gc.collect()
    assert len(made) == 3 and not alive


def test_mixed_precision_trains_and_the_attack_is_exact():
    model = AdversarialModel(classifier(), ATTACK).train()
    data = batch()
    exact = model.forward(**data, mode='loss')
    model._last = (-1, 0)
    with torch.autocast('cpu', torch.bfloat16):
        mixed = model.forward(**data, mode='loss')
    # Statistics moved in between, but both attacks begin with running ones near 0, 1.
    torch.testing.assert_close(
        mixed['inner_before'], exact['inner_before'], rtol=0.2, atol=0
    )
    assert mixed['loss'] != exact['loss']
    mixed['loss'].backward()


class Images(torch.utils.data.Dataset):
    """Random images of three classes, packed."""

    metainfo = dict(classes=('a', 'b', 'c'))

    def __init__(self, count=8):
        self.packed = batch(count)

    def __len__(self):
        return len(self.packed['inputs'])

    def __getitem__(self, i):
        return {key: values[i] for key, values in self.packed.items()}


def collate(items):
    inputs = torch.stack([item['inputs'] for item in items])
    return make_batch(inputs, [item['data_samples'].gt_label for item in items])


def make_runner(work_dir, epochs=2, loss=None, **kwargs):
    loader = DataLoader(Images(), batch_size=4, collate_fn=collate)
    return Runner(
        AdversarialModel(classifier(), ATTACK, loss),
        work_dir=str(work_dir),
        default_scope='mmpretrain',
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(
            type='OptimWrapper',
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
            clip_grad=dict(max_norm=1.0),
        ),
        val_dataloader=DataLoader(Images(4), batch_size=4, collate_fn=collate),
        val_cfg=dict(),
        val_evaluator=dict(type='Accuracy', topk=(1,)),
        custom_hooks=[dict(type='EMAHook', momentum=0.3)],
        log_level='WARNING',
        randomness=dict(seed=0),
        experiment_name=work_dir.name,
        **kwargs,
    )


def test_training_is_saved_resumed_and_loaded_into_the_bare_model(tmp_path):
    whole = make_runner(tmp_path / 'whole')
    whole.train()
    make_runner(tmp_path / 'part', epochs=1).train()
    resumed = make_runner(
        tmp_path / 'more', load_from=str(tmp_path / 'part/epoch_1.pth'), resume=True
    )
    resumed.train()
    assert_same(resumed.model.state_dict(), whole.model.state_dict())
    # Validation and the file have the average; training went on with its own weights.
    (ema,) = [hook for hook in whole.hooks if isinstance(hook, EMAHook)]
    saved = torch.load(tmp_path / 'whole/epoch_2.pth', weights_only=False)
    bare = classifier()
    bare.load_state_dict(saved['state_dict'])  # strict
    assert_same(bare.state_dict(), ema.ema_model.module.state_dict())
    name = 'backbone.conv1.weight'
    assert not bare.state_dict()[name].equal(whole.model.state_dict()[name])
    scalars = whole.message_hub.log_scalars
    assert {'train/inner_before', 'train/inner_after', 'train/attack_share'} <= {
        *scalars
    }
    assert 0 < scalars['train/attack_share'].current() < 1


def test_weights_of_the_bare_model_are_a_start(tmp_path):
    bare = classifier()
    torch.save(bare.state_dict(), tmp_path / 'bare.pth')
    model = AdversarialModel(copy.deepcopy(bare), ATTACK)
    for p in model.parameters():
        p.data.zero_()
    load_checkpoint(model, str(tmp_path / 'bare.pth'), strict=True)
    assert_same(model.state_dict(), bare.state_dict())


def test_a_hook_may_attack_validation_beside_free_at(tmp_path):
    runner = make_runner(tmp_path, 1, loss=dict(type='mmdiff.FreeATLoss', replays=2))
    hook = AttackHook(dict(type='mmdiff.PGD', eps=8, steps=1), stages=('val',))
    runner.register_hook(hook)
    runner.train()
    carried = copy.deepcopy(runner.model.adversarial_loss.noise)
    assert hook.stats.images == 4 and len(carried) == 4
    runner.val()
    for now, before in zip(runner.model.adversarial_loss.noise, carried):
        assert now.equal(before)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_data_parallel_trains_as_one_device_does(process_group):
    data = batch()
    for loss, kind in (
        (TRADES, MMDistributedDataParallel),
        (dict(type='mmdiff.FreeATLoss', replays=2), ReplayedDataParallel),
    ):
        alone = AdversarialModel(classifier(), ATTACK, loss).train()
        ranked = kind(AdversarialModel(classifier(), ATTACK, loss)).train()
        for _ in range(2):
            alone.train_step(data, optimizer_of(alone))
            ranked.train_step(data, optimizer_of(ranked))
        assert_same(alone.state_dict(), ranked.module.state_dict())
    unaware = MMDistributedDataParallel(ranked.module)
    with pytest.raises(ValueError, match='model_wrapper_cfg.*ReplayedDataParallel'):
        unaware.train_step(data, optimizer_of(unaware))
    assert ROOT.get('mmdiff.AdversarialModel') is AdversarialModel


def test_what_does_not_go_together_is_refused_before_training():
    def build(attack=ATTACK, **kwargs):
        return AdversarialModel(make_classifier(num_classes=3), attack, **kwargs)

    with pytest.raises(ValueError, match='DAG attacks the boxes of detectors'):
        build(dict(type='mmdiff.DAG', steps=1))
    with pytest.raises(ValueError, match="'vanishing' is none of classification"):
        build(dict(ATTACK, objective='vanishing'))
    with pytest.raises(ValueError, match="bn_mode='train' must be one of"):
        build(bn_mode='train')
    with pytest.raises(ValueError, match='swap the two'):
        AdversarialModel(build(), ATTACK)
    with pytest.raises(ValueError, match='clean_weight=-1 must be'):
        build(loss=dict(type='mmdiff.MadryLoss', clean_weight=-1))
    with pytest.raises(ValueError, match='use the bare model'):
        MadryLoss(0)
    with pytest.raises(ValueError, match='label_smoothing=1 must be'):
        TRADESLoss(label_smoothing=1)
    with pytest.raises(ValueError, match='replays=0 must be'):
        FreeATLoss(0)
    with pytest.raises(ValueError, match='step_size=0 must be'):
        FreeATLoss(step_size=0)
    detector = detector_config('fcos', 'resnet')
    with DefaultScope.overwrite_default_scope('mmdet'):
        with pytest.raises(ValueError, match='FCOS is a detector; use'):
            AdversarialModel(detector, ATTACK, TRADES)
        detector.data_preprocessor.batch_augments = [
            dict(type='BatchFixedSizePad', size=(64, 64))
        ]
        with pytest.raises(ValueError, match='augments batches .* batch_augments=None'):
            AdversarialModel(detector, ATTACK)


def test_what_training_cannot_do_is_refused():
    loss = dict(type='mmdiff.FreeATLoss', replays=2)
    model = AdversarialModel(classifier(), ATTACK, loss).train()
    data, optimizer = batch(), optimizer_of(model)
    accumulated = OptimWrapper(optimizer.optimizer, accumulative_counts=2)
    with pytest.raises(ValueError, match='accumulative_counts=2 would mix'):
        model.train_step(data, accumulated)
    model.replay = 0
    model.forward(**data, mode='loss')
    with pytest.raises(ValueError, match='left no gradient at the images'):
        model.forward(**data, mode='loss')


def test_attacks_that_raise_nothing_are_said_once(caplog):
    """Of a network that answers the same to all images nothing robust is learnt."""
    model = AdversarialModel(classifier(), ATTACK).train()
    for p in model.model.head.parameters():
        torch.nn.init.zeros_(p)
    logger = MMLogger.get_instance('in-vain', logger_name='in-vain')
    logger.addHandler(caplog.handler)
    data = batch()
    for _ in range(PATIENCE - 1):
        losses = model.forward(**data, mode='loss')
    assert losses['inner_after'] == losses['inner_before'] and not caplog.records
    for _ in range(3):
        model.forward(**data, mode='loss')
    (record,) = caplog.records
    assert 'has not raised its objective' in record.message
