from types import SimpleNamespace

import numpy as np

from mmdiff.engine.loops.robust_record import RobustRecord


def test_ensemble_takes_the_lowest_ap_and_settles_ties(monkeypatch):
    """Above 0 the lower margin decides, at 0 the first of all."""
    monkeypatch.setattr(RobustRecord, 'choose', lambda _runs, index: index.tolist())
    aps = dict(
        clean=[1.0, 1.0, 0.0, 0.2, 0.5],
        first=[1.0, 0.5, 0.0, 0.5, 0.0],
        second=[1.0, 0.3, 0.0, 0.4, 0.0],
    )
    runs = [SimpleNamespace(ap=np.array(ap)) for ap in aps.values()]
    margins = np.array([[0.9, 0, 9, 9, 0], [0.2, 9, 0, 0, 9], [0.4, 9, 0, 0, 0]])
    assert RobustRecord.ensemble(runs, margins) == [1, 2, 0, 0, 1]
