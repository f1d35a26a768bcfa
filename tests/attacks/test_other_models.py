"""Models of mmdet that are more than one detector of one image, or something else."""

from types import SimpleNamespace

import pytest
import torch
from conftest import batch_of, detector_config, run
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import nn

from mmdiff import DAG, PGD
from mmdiff.attacks import AttackStats, RandomNoise, oracle_of
from mmdiff.attacks.probes.flags import probe_model
from mmdiff.engine import AttackHook

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
NORMALISED = dict(
    type='DetDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True, pad_size_divisor=32
)


def soft_teacher(predict_on='teacher'):
    """Two detectors that know no normalisation, behind a preprocessor that does."""
    detector = detector_config('faster-rcnn', 'resnet')
    detector.data_preprocessor = dict(type='DetDataPreprocessor', pad_size_divisor=32)
    model = MODELS.build(
        dict(
            type='SoftTeacher',
            detector=detector,
            data_preprocessor=dict(
                type='MultiBranchDataPreprocessor', data_preprocessor=NORMALISED
            ),
            semi_train_cfg=dict(freeze_teacher=True),
            semi_test_cfg=dict(predict_on=predict_on),
        )
    )
    for seed, part in enumerate((model.teacher, model.student)):
        torch.manual_seed(seed)
        for parameter in part.parameters():
            if parameter.ndim > 1:
                parameter.data.normal_(std=0.05)
    return model.eval()


@pytest.mark.parametrize('part', ['teacher', 'student'])
def test_of_a_semi_supervised_detector_the_part_that_predicts_is_attacked(part):
    model = soft_teacher(part)
    attack, batch = PGD(eps=4, steps=2), batch_of([(3, 64, 64)], (2,))
    result = run(attack, model, batch)
    alone = getattr(model, part)
    alone.data_preprocessor = MODELS.build(NORMALISED)
    expected = run(attack, alone, batch)
    assert result.losses == expected.losses and result.stats.changed == 1
    assert torch.equal(result.inputs[0], expected.inputs[0])
    other = soft_teacher('teacher' if part == 'student' else 'student')
    assert run(attack, other, batch).losses != result.losses


def test_a_semi_supervised_detector_is_compared_with_its_own_test():
    probe = probe_model(oracle_of(soft_teacher()), batch_of([(3, 64, 64)], (2,)))
    assert probe.test_gap == probe.flag_gap == 0


def test_the_hook_attacks_the_part_that_a_loop_tests_at_the_moment():
    """mmdet's TeacherStudentValLoop tests one after the other in one validation."""
    hook, model = AttackHook(PGD(eps=4, steps=1)), soft_teacher()
    runner = SimpleNamespace(model=model)
    for part in ('teacher', 'student'):
        model.semi_test_cfg['predict_on'] = part
        batch = batch_of([(3, 64, 64)], (2,))
        expected = hook.attack(soft_teacher(part), batch)
        hook.before_val_iter(runner, 0, batch)
        assert torch.equal(batch['inputs'][0], expected[0])
    assert hook.stats.images == 2


class Other(nn.Module):
    """Any model with losses that is no detector of one image."""

    def __init__(self, **parts):
        super().__init__()
        self.data_preprocessor = nn.Identity()
        for name, part in parts.items():
            setattr(self, name, part)

    def loss(self, inputs, samples):
        raise AssertionError('it was asked')


def kind(name, base=Other):
    return type(name, (base,), {})


BaseMOTModel = kind('BaseMOTModel')


@pytest.mark.parametrize(
    'model, sentence',
    [
        (
            kind('ByteTrack', BaseMOTModel)(detector=nn.Identity()),
            'ByteTrack follows objects through videos.* model.detector, with data_pre',
        ),
        (
            kind('Mask2FormerVideo', BaseMOTModel)(),
            'Mask2FormerVideo follows .* single images: it cannot be attacked',
        ),
        (kind('MyReID', kind('BaseReID'))(), 'MyReID compares images of persons'),
        (kind('CLRNet')(), 'CLRNet detects lines'),
        (
            kind('Wrapper')(data_preprocessor=kind('MultiBranchDataPreprocessor')()),
            'Wrapper takes batches of several branches .* attack the detector in it',
        ),
    ],
)
def test_what_is_no_detector_of_one_image_is_one_sentence(model, sentence):
    for attack in (PGD(), DAG(), RandomNoise()):
        with pytest.raises(ValueError, match=sentence):
            attack(model, batch_of())


def test_a_tracker_of_mmdet_is_refused_before_any_work():
    detector = detector_config('faster-rcnn', 'resnet')
    preprocessor = dict(type='TrackDataPreprocessor', mean=MEAN, std=STD)
    tracker = dict(type='ByteTrack', detector=detector, data_preprocessor=preprocessor)
    with pytest.raises(ValueError, match='ByteTrack follows .* test its detector'):
        oracle_of(MODELS.build(tracker))


def test_a_model_of_torch_alone_is_one_sentence():
    with pytest.raises(TypeError, match='Linear has no loss and data_preprocessor'):
        oracle_of(nn.Linear(1, 1))


def test_a_compiled_model_is_what_it_compiles(make_detector):
    model = make_detector('fcos', 'resnet')
    compiled = torch.compile(model, backend='eager')
    assert oracle_of(compiled).model is model


def proposals_of(sample):
    boxes = sample.gt_instances.bboxes
    return InstanceData(bboxes=torch.cat([boxes, boxes + 4]))


def fast_rcnn():
    cfg = detector_config('faster-rcnn', 'resnet')
    cfg.type = 'FastRCNN'
    cfg.pop('rpn_head')
    cfg.train_cfg = dict(rcnn=cfg.train_cfg.rcnn)
    cfg.test_cfg = dict(rcnn=cfg.test_cfg.rcnn)
    torch.manual_seed(0)
    return MODELS.build(cfg).eval()


@pytest.mark.parametrize('objective', ['total', 'detections'])
def test_a_detector_without_an_rpn_is_attacked_on_the_proposals_of_its_set(objective):
    model, batch = fast_rcnn(), batch_of()
    with pytest.raises(ValueError, match='FastRCNN makes no proposals .* LoadProposal'):
        PGD(objective=objective)(model, batch)
    (sample,) = batch['data_samples']
    sample.proposals = proposals_of(sample)
    result = run(PGD(eps=4, steps=2, objective=objective), model, batch)
    assert result.stats.changed == 1 and result.stats.zero_grads == 0


@pytest.fixture
def reading(make_detector):
    """A detector that is told what to find, as GLIP and Grounding DINO."""
    model = make_detector('fcos', 'resnet')
    model.language_model = nn.Identity()
    return model


def test_a_detector_that_is_told_a_text_needs_one(reading):
    for attack in (PGD(), PGD(objective='detections'), RandomNoise()):
        with pytest.raises(ValueError, match="return_classes=True .* 'text' and 'cust"):
            attack(reading, batch_of())


@pytest.mark.parametrize('text', [('cat', 'dog'), 'cat . dog .', 'cat. dog'])
def test_classes_are_those_that_the_text_names(reading, text):
    """Heads say how many tokens they take at most."""
    batch = batch_of()
    (sample,) = batch['data_samples']
    sample.set_metainfo(dict(text=text))
    sample.gt_instances.labels[:] = torch.tensor([0, 1, 0])
    oracle = oracle_of(reading)
    question = oracle.ask(oracle.gather(batch), AttackStats(), lambda *_: 0, 'mislabel')
    wrong = question.group.samples[0].gt_instances.labels
    assert wrong.tolist() == [1, 0, 1]
    sample.gt_instances.labels[0] = 4
    with pytest.raises(ValueError, match='names 2 classes and .* has class 4; give'):
        PGD()(reading, batch)


def test_the_number_of_classes_of_a_text_is_that_of_the_test_set(reading):
    oracle = oracle_of(reading)
    assert oracle.num_classes == reading.bbox_head.num_classes
    oracle.classes = ('cat', 'dog')
    assert oracle.num_classes == 2


def test_losses_of_a_whole_text_say_nothing_of_its_chunks(reading):
    batch = batch_of()
    batch['data_samples'][0].set_metainfo(dict(text=('a', 'b', 'c', 'd', 'e')))
    reading.test_cfg.chunked_size = 2
    with pytest.raises(ValueError, match="chunks .* use objective='detections'"):
        PGD(objective='cls')(reading, batch)
    result = run(PGD(eps=4, steps=1, objective='detections'), reading, batch)
    assert result.stats.changed == 1
