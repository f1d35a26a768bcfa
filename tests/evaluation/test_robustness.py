import math
import re

import numpy as np
import pytest
import torch
from mmdet.evaluation.functional import eval_map
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdiff import DAG, PGD
from mmdiff.attacks import APGD, MIM, AttackStats, RandomNoise, Square, Transfer
from mmdiff.engine.loops.robust_record import RobustRecord
from mmdiff.evaluation import (
    attack_configs,
    class_aps,
    draw_curve,
    image_ap,
    image_margin,
    parse_attacks,
    protocol_of,
)
from mmdiff.evaluation.robustness import main_metric, make_table, merge_stats
from mmdiff.evaluation.sanity import (
    check_controls,
    check_entry,
    check_rows,
    controls,
    count_differing,
    variant,
)


def entry(attack='pgd', score=0.2, eps=8, images=10, **sanity):
    base = dict(images=10, changed=10, zero_grads=0, nonfinite_grads=0, blocked=0)
    base |= dict(max_delta=8.0, max_l2=100.0, pixel_min=0.0, pixel_max=255.0)
    base |= dict(objective_ends=(1.0, 2.0))
    return dict(
        attack=attack,
        label=attack,
        role='attack',
        norm='linf',
        eps=eps,
        eot=1,
        num_images=images,
        metrics={'pascal_voc/AP50': 0.1, 'pascal_voc/mAP': score},
        cost=dict(grad_evals=100, seconds=1.0, queries=0),
        sanity={**base, **sanity},
        reasons=[],
    )


CLEAN = dict(
    attack='clean',
    label='clean',
    metrics={'pascal_voc/mAP': 0.5},
    cost=dict(grad_evals=0, seconds=1.0, queries=0),
    reasons=[],
)


def test_parse_attacks():
    attacks = parse_attacks('pgd,dag', '2,4', 7)
    assert [(type(a), a.eps, a.steps) for a in attacks] == [
        (PGD, 2.0, 7),
        (PGD, 4.0, 7),
        (DAG, 2.0, 7),
        (DAG, 4.0, 7),
    ]
    assert parse_attacks('dag')[0].eps is None  # as published
    for names, eps, words in (
        ('pgd,cw', None, "no attack 'cw'; choose from pgd, dag"),
        ('pgd', '2;4', 'must be numbers in pixel units'),
        ('pgd', '-2', 'eps=-2.0 is negative'),
    ):
        with pytest.raises(ValueError, match=words):
            parse_attacks(names, eps)


def test_presets_and_options():
    standard = parse_attacks('standard', '2,4', 3)
    assert len(standard) == 10 and {a.eps for a in standard} == {2, 4}
    assert [type(a) for a in standard[::2]] == [APGD, APGD, DAG, APGD, Square]
    assert {a.steps for a in standard} == {3}
    (quick, noise) = attack_configs('quick,noise', steps=2)
    assert quick == dict(type='mmdiff.PGD', eps=8, steps=2)
    assert noise == dict(type='mmdiff.RandomNoise')
    with pytest.raises(ValueError, match="'noise' takes the argument 'objective'"):
        attack_configs('noise', objective='cls')
    # What only some have reaches those.
    standard = parse_attacks('standard', eot=4, restarts=2)
    assert [getattr(a, 'eot', None) for a in standard] == [4, 4, None, 4, 4]
    with pytest.raises(ValueError, match="'standard' takes the argument 'etot'"):
        attack_configs('standard', etot=4)


def test_attacks_as_published():
    (ares,) = parse_attacks('paper_ares')
    assert (ares.eps, ares.steps, ares.step_size) == (2, 20, 1)
    assert not ares.keep_best and protocol_of('paper_ares,paper_dag') == 'paper'
    assert parse_attacks('paper_dag')[0].eps is None
    assert protocol_of('standard,pgd') == 'adaptive'
    with pytest.raises(ValueError, match="'paper_dag,pgd' mixes .* by itself"):
        protocol_of('paper_dag,pgd')


def test_transfer_by_name():
    """Its source is its own; all else is of the attack on that."""
    options = dict(source=['a.py', 'b.pth'], objective='cls')  # as DictAction has it
    pgd, transfer = parse_attacks('pgd,transfer', '4', 3, **options)
    assert (type(pgd), pgd.objective) == (PGD, 'cls')
    assert transfer.threat_model()['source'] == 'a.py,b.pth'
    inner = transfer.attack
    assert (type(inner), inner.eps, inner.steps, inner.objective) == (MIM, 4, 3, 'cls')
    with pytest.raises(ValueError, match="source=.* must be 'CONFIG,CKPT'"):
        attack_configs('transfer')
    with pytest.raises(ValueError, match='belongs to the attack transfer; add it'):
        attack_configs('pgd', source='a.py,b.pth')


@pytest.mark.parametrize(
    'broken, words',
    [
        (entry(score=0.6), r'raised the metric .*\(0.500 to 0.600\)'),
        (entry(changed=0), 'changed 0 of 10 images only'),
        (entry(changed=4), 'changed 4 of 10 images only'),
        (entry(objective_ends=(2.0, 1.5)), r'raise its objective \(2 to 1.5\)'),
        (entry(nonfinite_grads=3), '3 non-finite'),
        (entry(zero_grads=50), '50 gradients of 100 that were zero'),
        (entry(blocked=10, changed=0), 'no gradient at all on 10 images'),
        (entry(max_delta=9.0), 'left its budget: a change of 9'),
        (entry(pixel_max=256.0), 'range of pixels: 0 to 256'),
    ],
)
def test_what_makes_a_result_hard_to_believe(broken, words):
    (reason,) = check_entry(broken, CLEAN)
    assert reason.startswith('pgd at eps=8 ')
    assert re.search(words, reason)


def test_what_is_believed():
    assert check_entry(entry(), CLEAN) == []
    # One class of one image may turn by chance, if there are few.
    assert check_entry(entry(score=0.51), CLEAN) == []
    assert check_entry(entry(score=0.51, images=1000), CLEAN)
    assert check_entry(entry(eps=0, changed=0, max_delta=0.0), CLEAN) == []
    # Half the passes of a mean over two found nothing: one gradient in 50.
    assert check_entry(dict(entry(zero_grads=5), eot=2), CLEAN) == []
    assert check_entry(dict(entry(zero_grads=6), eot=2), CLEAN)


def record(aps, losses=None, scores=None):
    scores = [[0.9, 0.5]] * len(aps) if scores is None else scores
    found = [dict(scores=torch.tensor(s)) for s in scores]
    losses = np.full(len(aps), 2.0) if losses is None else np.array(losses)
    return RobustRecord(found, losses, np.array(aps), AttackStats())


def test_controls():
    clean, hit = record([0.8] * 20), record([0.3] * 20)
    good = dict(
        noise=record([0.75] * 16),
        longer=record([0.25] * 16),
        large=record([0.02] * 16),
        square=record([0.7] * 16, [1.0] * 16),
    )
    found, reasons = check_controls('pgd', clean, hit, good)
    assert reasons == []
    assert found['images'] == 16 and found['noise'] == pytest.approx(0.75)
    assert found['square_objective'] == 1 and found['objective'] == 2
    for name, bad, words in (
        ('noise', record([0.1] * 16), 'hurts less than noise'),
        ('longer', record([0.1] * 16), 'is not converged'),
        ('large', record([0.3] * 16), 'lead nowhere'),
        ('square', record([0.7] * 16, [2.2] * 16), 'are hidden'),
    ):
        (reason,) = check_controls('pgd', clean, hit, {**good, name: bad})[1]
        assert reason.startswith('pgd ') and words in reason
    # Left out images have no objective; the luck of one image decides nothing.
    square = record([0.7] * 16, [math.nan] * 15 + [2.0])
    longer = record([0.3] * 15 + [0.0])
    more = {**good, 'square': square, 'longer': longer}
    assert check_controls('pgd', clean, hit, more)[1] == []


def test_rows_are_compared_with_noise_and_black_box_search():
    def rows(**aps):
        made = [entry(name) for name in aps]
        for row, ap in zip(made, aps.values()):
            role = 'control' if row['attack'] == 'noise' else 'attack'
            row.update(image_ap=ap, role=role, reasons=[])
        return made

    clean = dict(CLEAN, image_ap=0.8, num_images=100)
    good = rows(pgd=0.2, dag=0.4, square=0.5, transfer=0.6, noise=0.7)
    check_rows(good, clean)
    assert not any(row['reasons'] for row in good)
    weak = rows(pgd=0.2, dag=0.5, square=0.4, transfer=0.6, noise=0.55)
    check_rows(weak, clean)
    (dag,) = weak[1]['reasons']
    assert dag.startswith('dag at eps=8 leaves') and '0.500, black-box' in dag
    (transfer,) = weak[3]['reasons']
    assert 'hurts less than noise' in transfer and '0.600 against 0.550' in transfer
    assert [bool(row['reasons']) for row in weak] == [False, True, False, True, False]
    # A row of what was left says nothing of itself; noise that does nothing neither.
    weak = rows(dag=0.5, square=0.4, noise=0.79)
    weak[1]['cumulative'] = True
    check_rows(weak, clean)
    assert not any(row['reasons'] for row in weak)


def test_settings_of_the_controls():
    attack = PGD(eps=4, steps=20, step_size=0.1, objective='cls', quantize=True, seed=3)
    made = controls(attack, 2500)
    assert made['longer'].steps == 40 and made['longer'].step_size == 0.1
    assert made['large'].eps == 64 and made['large'].objective == 'cls'
    assert made['large'].step_size == 4
    assert isinstance(made['noise'], RandomNoise) and made['noise'].eps == 4
    assert made['square'].steps == 60 and made['square'].quantize
    assert all(a.seed == 3 for a in made.values())
    one = controls(PGD(eps=8, steps=1, step_size=8), 2500)
    assert one['longer'].step_size == 20 / 11
    falling = controls(PGD(eps=8, steps=5), 2500)
    assert falling['longer'].steps == 15 and falling['longer'].step_size is None
    assert falling['large'].step_size is None
    assert controls(APGD(steps=3), 2500)['longer'].steps == 13
    two = controls(PGD(eps=300, norm='l2'), 2500)
    assert two['square'].norm == 'l2' and two['large'].eps == 64 * 50
    dag = controls(DAG(eps=4, steps=30), 2500)
    assert set(dag) == {'noise', 'longer'} and dag['longer'].steps == 60
    assert list(controls(Transfer(PGD(), 'a.py,b.pth'), 2500)) == ['noise']
    other = variant(Transfer(dict(type='PGD', eps=4), 'a.py,b.pth'), steps=3)
    assert other.attack.steps == 3 and other.attack.eps == 4
    assert variant(DAG(gamma=2), steps=7).threat_model() == {
        **DAG(gamma=2).threat_model(),
        'steps': 7,
    }


def test_clean_runs_that_differ():
    first = record([1] * 4, scores=[[0.9, 0.5], [0.9], [0.9], []])
    # An exchange of order, a score at the threshold, and noise.
    second = record([1] * 4, scores=[[0.5, 0.9], [0.9, 0.05], [0.91], []])
    assert count_differing(first, second) == 1
    assert count_differing(first, record([1] * 4, scores=[[0.9, 0.5], [], [], []])) == 2


def test_stats_add_up():
    one = AttackStats(2, 1, 3.0, 9.0, 5.0, 200.0, 7, 1, 0, 0, {0: 1.0})
    two = AttackStats(1, 1, 4.0, 8.0, 1.0, 100.0, 1, 0, 2, 0, {0: 2.0, 1: 1.0})
    whole = AttackStats(3, 2, 4.0, 9.0, 1.0, 200.0, 8, 1, 2, 0, {0: 3.0, 1: 1.0})
    assert merge_stats([one, two]) == whole
    assert one.losses == {0: 1.0}


def sample_of(boxes, labels, ignored=(), scale=1.0):
    sample = DetDataSample(metainfo=dict(scale_factor=(scale, scale)))
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes).reshape(-1, 4) * scale, labels=torch.tensor(labels)
    )
    boxes = torch.tensor(ignored).reshape(-1, 4) * scale
    labels = torch.zeros(len(boxes), dtype=torch.long)
    sample.ignored_instances = InstanceData(bboxes=boxes, labels=labels)
    return sample


def found_of(boxes, labels, scores):
    return dict(
        bboxes=torch.tensor(boxes).reshape(-1, 4),
        labels=torch.tensor(labels),
        scores=torch.tensor(scores),
    )


def test_ap_of_images_is_mmdets():
    generator = torch.Generator().manual_seed(0)
    found, samples, dets, truths = [], [], [], []
    for _ in range(3):
        corner = torch.rand(12, 2, generator=generator) * 20
        boxes = torch.cat([corner, corner + 20], 1)
        labels = torch.randint(0, 3, (12,), generator=generator)
        scores = torch.rand(12, generator=generator)
        found.append(dict(bboxes=boxes, labels=labels, scores=scores))
        shown = labels[:4] % 2  # no object of class 2
        samples.append(
            sample_of((boxes[:4] + 1).tolist(), shown.tolist(), [boxes[5].tolist()])
        )
        rows = torch.cat([boxes, scores[:, None]], 1).numpy()
        dets.append([rows[labels.numpy() == k] for k in range(3)])
        truths.append(
            dict(
                bboxes=(boxes[:4] + 1).numpy(),
                labels=shown.numpy(),
                bboxes_ignore=boxes[5:6].numpy(),
                labels_ignore=np.zeros(1, int),
            )
        )
    for detections, sample, det, truth in zip(found, samples, dets, truths):
        expected, _ = eval_map([det], [truth], logger='silent')
        assert 0 < expected < 1
        assert image_ap(detections, sample) == pytest.approx(expected)
    for mode in ('area', '11points'):
        how = dict(eval_mode=mode, use_legacy_coordinate=True)
        _, rows = eval_map(dets, truths, nproc=1, logger='silent', **how)
        aps = class_aps(found, samples, 'abc', **how)
        assert set(aps) == {'a', 'b'}
        assert list(aps.values()) == pytest.approx([row['ap'] for row in rows[:2]])


def test_margin_is_true_scores_less_false_ones():
    """An object found twice, one of class 1 missed, a false alarm, one ignored."""
    boxes = [[0.0, 0.0, 20.0, 20.0], [40.0, 0.0, 60.0, 20.0], [0.0, 40.0, 20.0, 60.0]]
    sample = sample_of(boxes[:2], [0, 1], [boxes[2]])
    where = [boxes[0], boxes[0], boxes[1], boxes[2]]
    found = found_of(where, [0, 0, 2, 0], [0.9, 0.5, 0.3, 0.8])
    assert image_margin(found, sample) == pytest.approx(0.9 - 0.5 - 0.3)
    assert image_margin(found_of([], [], []), sample) == 0
    low = found_of(where, [0, 0, 2, 0], [0.4, 0.1, 0.3, 0.8])
    assert image_ap(low, sample) == image_ap(found, sample)
    assert image_margin(low, sample) < image_margin(found, sample)


def test_ap_of_an_image_at_its_ends():
    box = [[0.0, 0.0, 20.0, 20.0]]
    sample, wrong = sample_of(box, [0]), sample_of(box, [1])
    one = found_of(box, [0], [0.3])
    assert image_ap(one, sample) == 1 and image_ap(one, wrong) == 0
    nothing = found_of([], [], [])
    assert image_ap(nothing, sample) == 0
    # Without objects only false alarms count, but not what is found of ignored ones.
    empty = sample_of([], [])
    assert image_ap(nothing, empty) == 1
    assert image_ap(one, empty) == pytest.approx(0.7)
    difficult = sample_of([], [], box)
    both = found_of([*box, [40.0, 0.0, 60.0, 20.0]], [0, 0], [0.9, 0.3])
    assert image_ap(found_of(box, [0], [0.9]), difficult) == 1
    assert image_ap(both, difficult) == pytest.approx(0.7)
    # A box from 0 to 9 is 10 wide in the metric of VOC: 7.5 / 14.5, not 6.5 / 13.5.
    small = sample_of([[0.0, 0.0, 10.0, 10.0]], [0])
    aside = found_of([[3.5, 0.0, 13.5, 10.0]], [0], [0.9])
    assert image_ap(aside, small) == 0
    assert image_ap(aside, small, use_legacy_coordinate=True) == 1
    assert image_margin(aside, small) < 0
    assert image_margin(aside, small, use_legacy_coordinate=True) > 0
    # Ground truth that went through Resize.
    scaled = sample_of(box, [0], scale=3.0)
    assert image_ap(one, scaled) == 0
    assert image_ap(one, scaled, 'input') == 1


def test_table_marks_what_is_unreliable():
    bad = dict(entry('dag'), reasons=['dag at eps=8 fails'], cumulative=True)
    results = [CLEAN, entry(), bad]
    table = make_table(dict(name='a', protocol='adaptive', results=results))
    assert list(table.columns[0].cells) == [
        'clean',
        'pgd',
        'dag [bold red]![/] (and those above)',
    ]
    assert list(table.columns[3].cells) == ['0.500', '0.200', '0.200']


def test_main_metric_knows_both_metrics():
    assert main_metric(entry(score=0.3)) == 0.3
    assert main_metric(dict(metrics={'a': 1.0, 'coco/bbox_mAP': 0.4})) == 0.4


def test_curve_is_drawn(tmp_path):
    results = [CLEAN, entry(eps=2, score=0.4), entry(eps=8), entry('dag', 0.3)]
    file = tmp_path / 'curve.png'
    draw_curve(file, dict(one=results, two=results))
    assert file.stat().st_size > 5000
