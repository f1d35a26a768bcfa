from types import SimpleNamespace

import numpy as np

from mmdiff.engine.loops.robust_record import RobustRecord


def test_ensemble_takes_the_lowest_ap_and_settles_ties(monkeypatch):
    """Above 0 an attack before the clean run, at 0 the first of all."""
    monkeypatch.setattr(RobustRecord, 'choose', lambda _runs, index: index.tolist())
    aps = dict(
        clean=[1.0, 1.0, 0.0, 0.2, 0.5],
        first=[1.0, 0.5, 0.0, 0.5, 0.0],
        second=[1.0, 0.3, 0.0, 0.4, 0.0],
    )
    runs = [SimpleNamespace(ap=np.array(ap)) for ap in aps.values()]
    assert RobustRecord.ensemble(runs) == [1, 2, 0, 0, 1]
