"""Predictions of rows by constants that never saw their group: refits once per group, deterministic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tuner.training.calibration.fit import fit, sample
from tuner.training.calibration.plan import HELD_OUT_BY, PRIORS, WEIGHTS
from tuner.training.constants import Constants
from tuner.training.evaluate import times
from tuner.training.loaders.rows import Row


@dataclass(frozen=True, slots=True)
class Held:
    """A row, the group it was left out with, and what the others predict for it."""

    table: str
    group: str
    row: Row
    predicted_s: float


def fit_all(rows: Mapping[str, Sequence[Row]], start: Constants) -> Constants:
    """Constants fitted on every table the plan names and the data has."""
    return fit(sample([(rows[name], weight) for name, weight in WEIGHTS.items() if name in rows],
                      tuple(start.accelerators)), start, PRIORS)  # fmt: skip


def held_out(
    rows: Mapping[str, Sequence[Row]],
    start: Constants,
    names: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Held]:
    """Every timed row of the fitted tables (or of `names`), predicted without its group; other tables as they are."""
    found: list[Held] = []
    done = 0
    for name in sorted(rows) if names is None else names:
        timed = [row for row in rows[name] if row.iteration_s is not None]
        by = HELD_OUT_BY.get(name)
        groups = {""} if by is None else {getattr(row, by) for row in timed}
        for group in sorted(groups):
            inside = [row for row in timed if by is None or getattr(row, by) == group]
            kept = {**rows, name: [row for row in timed if by is not None and getattr(row, by) != group]}
            constants = fit_all({key: value for key, value in kept.items() if value}, start)
            seconds = times([row.case for row in inside], constants).seconds
            label = {id(row): group if by else row.size for row in inside}
            found += [Held(name, label[id(row)], row, float(value)) for row, value in zip(inside, seconds, strict=True)]
            done += 1
            if progress is not None:
                progress(done)
    return found
