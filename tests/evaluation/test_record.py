import json

import numpy as np
import pytest
import torch
from builders import make_record
from safetensors import safe_open
from safetensors.torch import save_file

from mmdiff.attacks import AttackStats
from mmdiff.evaluation.record import RunRecord


def full_record():
    """Two images of different tasks' fields: rows of any number, also none."""
    predictions = [
        {'bboxes': torch.rand(2, 4), 'labels': torch.tensor([1, 0])},
        {'bboxes': torch.rand(0, 4), 'labels': torch.zeros(0, dtype=torch.long)},
    ]
    stats = AttackStats(images=2, changed=1, max_delta=0.1, grad_evals=7)
    stats.losses = {0: 0.1, 3: float('inf')}
    losses = np.array([0.1, np.nan])
    scores = np.array([1 / 3, 0.0])
    return RunRecord(predictions, losses, scores, stats, 0.1, 123, 1)


def assert_same(one, other):
    for first, second in zip(one.predictions, other.predictions, strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    np.testing.assert_array_equal(one.loss, other.loss)
    np.testing.assert_array_equal(one.score, other.score)
    assert one.stats == other.stats
    for name in ('seconds', 'peak_mem', 'blocked'):
        assert getattr(one, name) == getattr(other, name)


def test_a_record_is_read_back_bit_for_bit(tmp_path):
    record, path = full_record(), tmp_path / 'a.safetensors'
    record.save(path, 'run')
    again = RunRecord.load(path, 2, 'run')
    assert_same(again, record)
    again.save(tmp_path / 'b.safetensors', 'run')
    assert (tmp_path / 'b.safetensors').read_bytes() == path.read_bytes()
    assert len(list(tmp_path.iterdir())) == 2  # nothing partial is left


@pytest.mark.parametrize('cut', [0, 20, -3])
def test_a_damaged_file_is_no_record(tmp_path, cut):
    path = tmp_path / 'a.safetensors'
    full_record().save(path, 'run')
    path.write_bytes(path.read_bytes()[:cut])
    assert RunRecord.load(path, 2, 'run') is None
    assert RunRecord.load(tmp_path / 'none', 2, 'run') is None


def test_a_file_of_another_number_of_images_is_no_record(tmp_path):
    full_record().save(tmp_path / 'a', 'run')
    assert RunRecord.load(tmp_path / 'a', 3, 'run') is None


def test_a_file_of_another_run_is_refused(tmp_path):
    full_record().save(tmp_path / 'a', 'theirs')
    with pytest.raises(ValueError, match='of another run .theirs, not ours.*--fresh'):
        RunRecord.load(tmp_path / 'a', 2, 'ours')


def test_joined_records_add_up():
    one, other = full_record(), full_record()
    other.peak_mem = 200
    whole = RunRecord.join([one, other])
    assert len(whole.predictions) == 4 and whole.score.shape == (4,)
    assert whole.stats.grad_evals == 14 and whole.stats.losses[0] == 0.2
    assert (whole.seconds, whole.peak_mem, whole.blocked) == (0.2, 200, 2)
    assert one.stats.grad_evals == 7


def test_a_choice_takes_images_of_runs_and_the_cost_of_all():
    runs = [make_record([0.1, 0.2], [1, 2]), make_record([0.3, 0.4], [3, 4])]
    for run in runs:
        run.stats.grad_evals = 5
    chosen = RunRecord.choose(runs, [1, 0])
    assert chosen.score.tolist() == [0.3, 0.2] and chosen.loss.tolist() == [3, 2]
    assert chosen.predictions[0] is runs[1].predictions[0]
    assert chosen.stats.grad_evals == 10


def rounded_record():
    """A full record with other predictions after rounding, and origins."""
    record = full_record()
    record.rounded = full_record().predictions[::-1]
    record.origin = ['a', 'b']
    return record


def test_predictions_after_rounding_are_kept_and_no_second_time_if_they_are_the_same(
    tmp_path,
):
    record, path = rounded_record(), tmp_path / 'a'
    record.save(path, 'run')
    again = RunRecord.load(path, 2, 'run')
    for one, other in zip(again.rounded, record.rounded, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert not again.is_whole and again.origin == []
    size = path.stat().st_size
    record.rounded = list(record.predictions)
    record.save(path, 'run')
    again = RunRecord.load(path, 2, 'run')
    assert again.is_whole and path.stat().st_size < size


def test_a_file_of_a_version_without_rounding_is_read(tmp_path):
    """Its account does not name it, and it has no such tensors."""
    path, written = tmp_path / 'a', full_record()
    written.save(path, 'run')
    with safe_open(path, 'pt') as file:
        account = json.loads(file.metadata()['account'])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del account['whole']
    save_file(tensors, path, {'account': json.dumps(account)})
    record = RunRecord.load(path, 2, 'run')
    assert_same(record, written)
    assert record.rounded == [] and not record.is_whole


def test_choices_take_rounded_predictions_and_origins_along():
    runs = [rounded_record(), rounded_record()]
    runs[1].origin = ['c', 'd']
    chosen = RunRecord.choose(runs, [1, 0])
    assert chosen.origin == ['c', 'b']
    assert chosen.rounded[0] is runs[1].rounded[0]
    runs[0].rounded = []  # of an earlier version: then nothing is known of the whole
    assert RunRecord.choose(runs, [1, 0]).rounded == []
