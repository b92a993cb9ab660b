"""Answers costed in full, exactly as `predict training` does, and the best of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuner.training.columns import Array
from tuner.training.constants import Constants
from tuner.training.planner.mixed.cells import Table, pool_rows, shaped
from tuner.training.planner.mixed.fill import least_tail
from tuner.training.planner.mixed.lines import Lines, Pools
from tuner.training.planner.question import PlanQuestion
from tuner.training.planner.search import Snapshot
from tuner.training.staged import Staged, staged_times, taken
from tuner.training.stepped import steppable, stepped_seconds

KEPT = 20  # fastest plans, one for each cell, length and number of chunks


@dataclass(frozen=True, slots=True, order=True)
class MixedPlan:
    """A plan that fits. In the order of `seconds`; ties go to the cell, then to the pools named first."""

    seconds: float
    cell: int
    virtual: int
    pools: tuple[int, ...]
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MixedFound:
    """Plans that fit, fastest first, over the cells of `table`, and `misfits` that may not and would be faster; how
    many cells there are, how many were opened, how many plans were costed in full, and whether time ran out."""

    table: Table
    plans: tuple[MixedPlan, ...]
    misfits: tuple[MixedPlan, ...]
    snapshot: Snapshot
    cells: int
    cells_opened: int
    plans_costed: int
    late: bool = False


class Candidates:
    """The best answer of every cell, length and number of chunks so far."""

    def __init__(self, question: PlanQuestion, table: Table, constants: Constants, keep: int = KEPT) -> None:
        self._question, self._table, self._constants, self._keep = question, table, constants, keep
        self._pools = Pools.of(question, constants)
        self._best: dict[tuple[int, int, int], MixedPlan] = {}
        self._noted: dict[tuple[int, int, int], tuple[float, Lines, Table]] = {}
        self.fastest = np.inf
        self.costed = 0

    def note(self, line: Lines, layers: Table, least: Array) -> None:
        """Remembers first answers that may be worth their full cost in the end."""
        for index in np.argsort(least, kind="stable")[: self._keep]:
            key = int(line.cell[index]), line.pools.shape[1], int(line.virtual[index])
            if np.isfinite(least[index]) and (key not in self._noted or least[index] < self._noted[key][0]):
                self._noted[key] = float(least[index]), line.some(slice(index, index + 1)), layers[index : index + 1]

    def best_of(self, cell: int, virtual: int) -> MixedPlan:
        """The best of a cell in so many chunks, of any length."""
        return min(plan for (where, _, v), plan in self._best.items() if (where, v) == (cell, virtual))

    def leading(self, count: int) -> list[tuple[int, int, int]]:
        """Cell, length and chunks of the first answers that take least."""
        return [key for _, key in sorted((found[0], key) for key, found in self._noted.items())[:count]]

    def cost(self, line: Lines, layers: Table) -> None:
        """Costs answers in full."""
        for same, m, v in _alike(line):
            part, counts = line.some(same), layers[same]
            self.costed += len(same)
            seconds = staged_times(self._staged(part, counts, m, v), self._constants).seconds
            for index, took in enumerate(seconds):
                key = int(part.cell[index]), part.pools.shape[1], v
                plan = MixedPlan(
                    float(took), key[0], v, tuple(map(int, part.pools[index])), tuple(map(int, counts[index]))
                )
                if key not in self._best or plan < self._best[key]:
                    self._best[key] = plan
                    self.fastest = min(self.fastest, plan.seconds)

    def step(self, line: Lines, layers: Table) -> None:
        """Steps through answers with the least that ends them, and costs those in full that still win."""
        p = line.pools.shape[1]
        for same, m, v in _alike(line):
            part, counts, schedule = line.some(same), layers[same], "interleaved" if v > 1 else "1f1b"
            if steppable(schedule, p, m, v):
                forward = part.forward * counts + part.extra_forward
                backward = part.backward * counts + part.extra_backward
                piped = np.maximum(stepped_seconds(schedule, m, v, forward, backward, part.hops), part.floor)
                least = piped + least_tail(part, counts)
                win = np.flatnonzero(least <= self.fastest * (1.0 + 1e-12))
                part, counts = part.some(win), counts[win]
            if len(counts):
                self.cost(part, counts)

    def ranked(self) -> tuple[MixedPlan, ...]:
        """The fastest, one of each cell, length and number of chunks."""
        noted = sorted((found[0], key) for key, found in self._noted.items() if key not in self._best)
        for _, key in noted[: self._keep]:
            _, line, layers = self._noted[key]
            self.cost(line, layers)
        return tuple(sorted(self._best.values())[: self._keep])

    def _staged(self, line: Lines, layers: Table, m: int, v: int) -> Staged:
        distinct, which = np.unique(line.cell, return_inverse=True)
        rows = pool_rows(self._question, self._table[distinct], self._constants)
        rows = taken(rows, (which[:, None] * len(self._pools.nic) + line.pools).ravel())
        return Staged(
            rows=shaped(rows, line.pools.shape[1], v), pool=line.pools, nic=self._pools.nic[line.pools],
            across=self._pools.across[line.pools], layers=layers.astype(np.float64),
            schedule="interleaved" if v > 1 else "1f1b", micro_batches=m, virtual=v, overlap=v > 1,
        )  # fmt: skip


def _alike(line: Lines) -> list[tuple[Table, int, int]]:
    """Rows that run as many micro-batches in as many chunks."""
    pairs = sorted({(int(m), int(v)) for m, v in zip(line.micro_batches, line.virtual, strict=True)})
    return [(np.flatnonzero((line.micro_batches == m) & (line.virtual == v)), m, v) for m, v in pairs]
