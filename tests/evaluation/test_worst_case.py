import numpy as np
import pytest
from builders import make_record

from mmdiff.evaluation.worst_case import (
    best_choice,
    choices,
    strongest_restart,
    worst_case,
    worst_run,
)


def test_choices_settle_ties_by_margin_and_then_take_one_attack_for_all_survivors():
    scores = np.array(
        [
            [1.0, 1.0, 0.0, 0.2, 0.5],  # clean
            [1.0, 0.5, 0.0, 0.5, 0.0],
            [1.0, 0.3, 0.0, 0.4, 0.0],
        ]
    )
    margins = np.array([[0.9, 0, 9, 9, 0], [0.2, 9, 0, 0, 9], [0.4, 9, 0, 0, 0]])
    by_image, by_first, by_second = (pick.tolist() for pick in choices(scores, margins))
    assert by_image == [1, 2, 1, 0, 1]
    assert by_first == [1, 1, 1, 1, 1]  # at 0 the first attack that brought it there
    assert by_second == [2, 2, 1, 2, 1]


def test_an_image_that_the_clean_run_misses_is_not_fooled_by_that():
    scores = np.array([[0.0], [0.5]])
    by_image, by_attack = choices(scores, np.zeros((2, 1)))
    assert by_image.tolist() == [0] and by_attack.tolist() == [1]


def test_restarts_count_by_objective_and_at_worst_by_score():
    runs = [make_record([0.5, 0.1], [1.0, np.nan]), make_record([0.7, 0.2], [2.0, 0.0])]
    assert strongest_restart(runs).score.tolist() == [0.7, 0.2]
    assert worst_run(runs).score.tolist() == [0.5, 0.1]


@pytest.fixture
def runs():
    clean, one, two = (make_record(s) for s in ([1, 1], [0.5, 0.4], [0.6, 0.3]))
    one.stats.grad_evals, one.seconds = 9, 3.0
    return [clean, one, two]


def mean_score(record):
    return float(record.score.mean())


def test_the_worst_case_is_the_best_choice_and_costs_nothing(runs):
    scores = np.stack([run.score for run in runs])
    ways = list(choices(scores, np.zeros((3, 2))))
    pick = best_choice(runs, ways, mean_score)
    record, chosen = worst_case(runs, [pick], mean_score, [])
    assert record.score.tolist() == [0.5, 0.3] and chosen.tolist() == [1, 2]
    assert record.stats.grad_evals == 0 and record.seconds == 0
    # Measured otherwise, another way is the lowest.
    pick = best_choice(runs, ways, lambda record: -record.score[1])
    record, _ = worst_case(runs, [pick], mean_score, [])
    assert record.score.tolist() == [0.5, 0.4]


def test_one_attack_alone_counts_where_it_leaves_less_than_all_together(runs):
    one, two, both = np.array([1, 1]), np.array([2, 2]), np.array([1, 2])
    alone = [(0.45, one), (0.1, two)]
    record, chosen = worst_case(runs, [both], mean_score, alone)
    assert record.score.tolist() == [0.6, 0.3] and chosen is two
    alone = [(0.45, one), (0.41, two)]  # together they leave 0.4
    record, chosen = worst_case(runs, [both], mean_score, alone)
    assert record.score.tolist() == [0.5, 0.3] and chosen is both
