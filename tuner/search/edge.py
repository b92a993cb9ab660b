"""Where settings fail, as a study has learnt it: p(ok) of rows, from its own trials and the space's margins."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tuner.search.feasibility import Feasibility, learn
from tuner.search.history import History
from tuner.search.space import Rows, Space

Floats = npt.NDArray[np.float64]

_FAILED_MOST, _WORKED_MOST = 40, 50  # the newest


def edge_of(space: Space, history: History) -> Feasibility | None:
    """None before the first failure: everything may work."""
    failed = history.infeasible()
    if not failed:
        return None
    worked = history.ok()
    keep_failed = failed[-_FAILED_MOST:]
    keep_worked = worked[-_WORKED_MOST:]
    rows = space.rows_of([told.setting for told in (*keep_worked, *keep_failed)])
    ok = np.array([True] * len(keep_worked) + [False] * len(keep_failed))
    return learn(_features(space, rows), ok)


def ok_of(space: Space, rows: Rows, feasibility: Feasibility | None) -> Floats:
    """Probability that each works."""
    return np.ones(len(rows)) if feasibility is None else feasibility.ok(_features(space, rows))


def _features(space: Space, rows: Rows) -> Floats:
    """The axes, and each margin in units of its slack: 0.5 is the stated edge, more is safe."""
    margins = space.margin_values(rows)
    slack = np.array([max(margin.slack, 1e-9) for _, margin in space.margins])
    bent = 0.5 + 0.5 * np.tanh(np.where(np.isfinite(margins), margins, 1e9) / (4 * slack)) if slack.size else margins
    return np.hstack((space.features(rows), bent))
