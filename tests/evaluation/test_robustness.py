import pytest

from mmdiff import DAG, PGD
from mmdiff.evaluation import draw_curve, parse_attacks
from mmdiff.evaluation.robustness import find_reasons, main_metric


def entry(attack='pgd', score=0.2, eps=8, **sanity):
    base = dict(images=10, changed=10, zero_grads=0, nonfinite_grads=0)
    return dict(
        attack=attack,
        eps=eps,
        metrics={'pascal_voc/AP50': 0.1, 'pascal_voc/mAP': score},
        cost=dict(grad_evals=100),
        sanity={**base, **sanity},
    )


CLEAN = dict(attack='clean', metrics={'pascal_voc/mAP': 0.5})


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


def test_what_makes_a_result_hard_to_believe():
    assert find_reasons([CLEAN, entry()]) == []
    for broken, words in (
        (entry(score=0.6), 'raised the metric'),
        (entry(changed=0), 'changed 0 of 10 images only'),
        (entry(changed=4), 'changed 4 of 10 images only'),
        (entry(losses={0: 2.0, 1: 1.5}), 'did not raise the loss'),
        (entry(nonfinite_grads=3), '3 non-finite'),
        (entry(zero_grads=50), '50 gradients that were zero'),
    ):
        (reason,) = find_reasons([CLEAN, broken])
        assert words in reason and 'pgd at eps=8' in reason


def test_main_metric_knows_both_metrics():
    assert main_metric(entry(score=0.3)) == 0.3
    assert main_metric(dict(metrics={'a': 1.0, 'coco/bbox_mAP': 0.4})) == 0.4


def test_curve_is_drawn(tmp_path):
    results = [CLEAN, entry(eps=2, score=0.4), entry(eps=8), entry('dag', 0.3)]
    file = tmp_path / 'curve.png'
    draw_curve(file, dict(one=results, two=results))
    assert file.stat().st_size > 5000
