"""Which trials are better than others when several objectives and limits count: fronts, and room between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from controlplane.model.tuning import Objective, Told, Verdict

Floats = npt.NDArray[np.float64]


def pareto_front(trials: Sequence[Told], objectives: Sequence[Objective]) -> list[Told]:
    """Measured trials that keep every limit and that no other such trial beats in one objective without losing in
    another. In their order."""
    good = [told for told in trials if told.verdict is Verdict.OK and all(value <= 0 for value in told.violation)]
    losses = _losses(good, objectives)
    kept: list[int] = []
    # Sorted by the first objective, a trial can only be beaten by one before it: one pass over the front so far.
    for i in np.lexsort(losses.T[::-1]):
        front = losses[kept]
        no_worse = (front <= losses[i]).all(axis=1)
        if not (no_worse & (front < losses[i]).any(axis=1)).any():
            kept.append(int(i))
    return [good[i] for i in sorted(kept)]


def select(trials: Sequence[Told], objectives: Sequence[Objective], count: int) -> list[Told]:
    """The best `count` of trials that ended (Deb and others 2002): those that work before those that break limits (the
    less the better) before those that did not run; among the first by front, and within a front where others are
    far."""
    if len(trials) <= count:
        return list(trials)
    works = [told for told in trials if told.verdict is Verdict.OK and not _broken(told)]
    breaks = sorted((told for told in trials if told.verdict is Verdict.OK and _broken(told)), key=_broken)
    fails = [told for told in trials if told.verdict is not Verdict.OK]
    ranked: list[Told] = []
    rest = works
    while rest and len(ranked) < count:
        front = pareto_front(rest, objectives)
        chosen = {told.number for told in front}
        room = _room(_losses(front, objectives))
        ranked += [front[int(i)] for i in np.argsort(-room, kind="stable")]
        rest = [told for told in rest if told.number not in chosen]
    return [*ranked, *breaks, *fails][:count]


def _broken(told: Told) -> float:
    return sum(max(value, 0.0) for value in told.violation)


def _losses(trials: Sequence[Told], objectives: Sequence[Objective]) -> Floats:
    """(n, objectives), lower is better."""
    signs = np.array([-1.0 if objective.direction == "maximize" else 1.0 for objective in objectives])
    values = np.array([told.values[: len(objectives)] for told in trials], np.float64)
    return np.asarray(values.reshape(len(trials), len(objectives)) * signs, np.float64)


def _room(losses: Floats) -> Floats:
    """Crowding distance: how far apart a point's neighbours are, its front's ends before all."""
    room = np.zeros(len(losses))
    for j in range(losses.shape[1]):
        order = np.argsort(losses[:, j], kind="stable")
        column = losses[order, j]
        spread = float(column[-1] - column[0]) or 1.0
        room[order[[0, -1]]] = np.inf
        room[order[1:-1]] += (column[2:] - column[:-2]) / spread
    return room
