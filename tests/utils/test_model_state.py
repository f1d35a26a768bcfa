"""Whatever a loss writes is put back."""

from collections import defaultdict, deque

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from torch import nn

from mmdiff.utils.model_state import kept_state


class Sampler:
    """A plain object that a module holds, as mmdet's samplers and assigners."""

    def __init__(self):
        self.floor_thr = -1
        self.seen = [torch.zeros(2)]


class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer('counts', torch.zeros(3))
        self.number = 0
        self.items = [1, 2]
        self.queue = deque([1])
        self.by_class = defaultdict(list, {0: []})
        self.cfg = ConfigDict(a=dict(b=1))
        self.pair = (torch.zeros(2), 'name')
        self.array = np.zeros(2)
        self.sampler = Sampler()
        self.learned = torch.ones(2, requires_grad=True)
        with torch.inference_mode():
            self.fixed = torch.zeros(2)


def write(loss):
    """All ways to remember at once."""
    loss.counts += 1
    loss.number += 1
    loss.items.append(3)
    loss.queue.append(2)
    loss.by_class[0].append(1)
    loss.by_class[5].append(1)
    loss.cfg.a.b = 2
    loss.pair[0].add_(1)
    loss.array += 1
    loss.sampler.floor_thr = 0
    loss.sampler.seen[0] += 1
    loss.new = 'attribute'
    with torch.no_grad():
        loss.learned += 1
    with torch.inference_mode():
        loss.fixed += 1


def told(loss):
    """What it remembers, as plain values."""
    return dict(
        counts=loss.counts.tolist(),
        number=loss.number,
        items=list(loss.items),
        queue=list(loss.queue),
        by_class={k: list(v) for k, v in loss.by_class.items()},
        cfg=loss.cfg.a.b,
        pair=loss.pair[0].tolist(),
        array=loss.array.tolist(),
        sampler=(loss.sampler.floor_thr, loss.sampler.seen[0].tolist()),
        new=getattr(loss, 'new', None),
        learned=loss.learned.tolist(),
        fixed=loss.fixed.tolist(),
    )


def test_everything_is_as_before_and_is_the_same_object():
    loss = Loss()
    before, names = told(loss), dict(vars(loss))
    buffer = loss.counts
    with kept_state(loss) as state:
        for _ in range(2):
            write(loss)
            assert told(loss) != before
            state.reset()
            assert told(loss) == before
        write(loss)
    assert told(loss) == before
    assert loss.counts is buffer
    assert all(vars(loss)[name] is value for name, value in names.items())
    assert loss.learned.requires_grad


def test_an_exception_passes_and_the_state_is_put_back():
    loss = Loss()
    before = told(loss)
    with pytest.raises(KeyError, match='mine'), kept_state(loss):
        write(loss)
        raise KeyError('mine')
    assert told(loss) == before


def test_a_buffer_of_two_modules_stays_one():
    first, second = Loss(), Loss()
    second._buffers['counts'] = first.counts
    model = nn.ModuleList([first, second])
    with kept_state(model) as state:
        first.counts += 1
        state.reset()
        assert first.counts is second.counts
    assert first.counts is second.counts and first.counts.sum() == 0


def test_it_tells_whether_anything_was_written():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    with kept_state(model) as state:
        assert not state.is_written()
        for change in (
            lambda: model[1].num_batches_tracked.add_(1),
            lambda: setattr(model[0], 'calls', 1),
            lambda: setattr(model[0], 'eps', 0.5),
            lambda: delattr(model[1], 'momentum'),
        ):
            change()
            assert state.is_written()
            state.reset()
            assert not state.is_written()
