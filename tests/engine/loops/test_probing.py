"""Questions are asked once and kept."""

from types import SimpleNamespace

import pytest

from mmdiff.attacks import PGD, RandomNoise, Square
from mmdiff.attacks.probes import ObjectiveProbe, Probes
from mmdiff.engine.loops import probing
from mmdiff.engine.loops.robust_plan import make_steps


@pytest.fixture
def runs(tmp_path):
    images = SimpleNamespace(load=lambda spans: [dict(span=spans[0])])
    images = type(
        'Images', (), {'__len__': lambda self: 5, 'load': staticmethod(images.load)}
    )()
    logger = SimpleNamespace(info=lambda text: None)
    return SimpleNamespace(
        images=images,
        image_names=lambda span: [str(i) for i in span],
        folder=tmp_path,
        rank=0,
        runner=SimpleNamespace(logger=logger),
    )


@pytest.fixture
def asked(monkeypatch):
    """Objectives and budgets that were asked about, by call."""
    calls = []

    def ask(oracle, batch, attacks):
        calls.append([(attack.objective, attack.eps) for attack in attacks])
        return Probes(objectives=[ObjectiveProbe(calls[-1][0][0], 3)])

    monkeypatch.setattr(probing, 'ask', ask)
    return calls


def test_answers_are_kept_until_objectives_or_images_change(runs, asked):
    steps = make_steps([PGD(eps=4), PGD(eps=4, steps=3), PGD(eps=8)], 5)
    first = probing.ask_once(runs, None, steps)
    assert asked == [[('total', 4), ('total', 8)]]
    assert probing.ask_once(runs, None, steps) == first and len(asked) == 1
    (file,) = runs.folder.iterdir()
    file.write_text('{')  # killed while writing
    assert probing.ask_once(runs, None, steps) == first and len(asked) == 2
    other = make_steps([PGD(eps=4, objective='cls')], 5)
    assert probing.ask_once(runs, None, other).of('cls') and len(asked) == 3


def test_what_follows_no_gradient_of_the_model_is_not_asked(runs, asked):
    attacks = [Square(eps=4), RandomNoise(eps=4), PGD(eps=0), PGD(4, source='a,b')]
    assert probing.ask_once(runs, None, make_steps(attacks, 5)) == Probes()
    assert asked == [] and list(runs.folder.iterdir()) == []


def test_another_rank_reads_or_says_what_is_missing(runs, asked):
    steps = make_steps([PGD(eps=4)], 5)
    runs.rank = 1
    with pytest.raises(FileNotFoundError, match='Rank 1 does not see .*share work_dir'):
        probing.ask_once(runs, None, steps)
