from types import SimpleNamespace

import numpy as np

from mmdiff.engine.loops.robust_record import RobustRecord


def test_ensembles_of_attacks(monkeypatch):
    """By image, lower margins settle ties; then all survivors as one attack."""
    monkeypatch.setattr(RobustRecord, 'choose', lambda _runs, index: index.tolist())
    aps = dict(
        clean=[1.0, 1.0, 0.0, 0.2, 0.5],
        first=[1.0, 0.5, 0.0, 0.5, 0.0],
        second=[1.0, 0.3, 0.0, 0.4, 0.0],
    )
    runs = [SimpleNamespace(ap=np.array(ap)) for ap in aps.values()]
    margins = np.array([[0.9, 0, 9, 9, 0], [0.2, 9, 0, 0, 9], [0.4, 9, 0, 0, 0]])
    by_image, by_first, by_second = RobustRecord.ensembles(runs, margins)
    assert by_image == [1, 2, 1, 0, 1]
    assert by_first == [1, 1, 1, 1, 1]  # at AP 0 the first attack that brought it there
    assert by_second == [2, 2, 1, 2, 1]
