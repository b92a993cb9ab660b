"""Best first over cells: the cell that could be fastest is opened next, its pipelines get a first answer each, and those
that could still beat the best are then gone through layer by layer. What was not gone through keeps its bound."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from tuner.training.columns import Array
from tuner.training.constants import Constants
from tuner.training.planner.mixed.bounds import (
    bounds,
    counts_bound,
    held_under,
    least_tail,
    seats,
    slowest_stage_bound,
    speeds,
)  # fmt: skip
from tuner.training.planner.mixed.cells import Table, cells, longest, stages_of
from tuner.training.planner.mixed.fill import every_answer, first_answers, least_seconds
from tuner.training.planner.mixed.kept import KEPT, Candidates, MixedFound, MixedPlan
from tuner.training.planner.mixed.lines import Lines, Pools, crossing_seconds, joined, lines
from tuner.training.planner.mixed.misfits import fastest_misfits
from tuner.training.planner.mixed.orders import pool_orders
from tuner.training.planner.mixed.rooms import rooms
from tuner.training.planner.mixed.seating import that_seat
from tuner.training.planner.mixed.sequences import counts, neighbours, ways
from tuner.training.planner.question import PlanQuestion
from tuner.training.planner.search import Progress, Snapshot

Flags = NDArray[np.bool_]
_CELLS = 128  # opened together
_DIVED = 256  # cells whose longest pipelines are tried first, of each length
_FIRST = 256  # lines of a length that get a first answer
_LINES = 1024  # gone through together
_TRIED = 4  # first answers of a length that are costed in full
_ROUNDS = 32  # of improvement of one plan
_SHAPES = 8192  # most sequences of pools of one cell, length and number of chunks
_USUAL = 512  # the same beyond what is left out already: more of them cost time and prove nothing
# Counts, not clocks, so that the plan is the same on every machine.
_FOLLOWED = 20_000  # answers of some lines followed at once
_ANSWERS = 150_000  # answers followed in all


def search(
    question: PlanQuestion, constants: Constants, *, progress: Progress | None = None, limit_s: float | None = None,
    keep: int = KEPT, any_plan: bool = False,
) -> MixedFound:  # fmt: skip
    """The `keep` fastest plans over several pools. With `limit_s` it may stop early and then says how far off it can be;
    without, the answer depends on the question alone. `any_plan`: the search ends with the first that fits."""
    until = np.inf if limit_s is None else time.monotonic() + limit_s
    run = _Search(question, constants, until, keep)
    if len(run.table):
        run.dive()
        run.open_cells(progress, any_plan)
        if not any_plan:
            run.improve()
            run.go_through()
    return run.found()


class _Search:
    def __init__(self, question: PlanQuestion, constants: Constants, until: float, keep: int = KEPT) -> None:
        self.question, self.constants, self.until = question, constants, until
        self.layers = question.case.model.layers
        self.table = cells(question)
        self.kept = Candidates(question, self.table, constants, keep)
        self.open: list[Lines] = []
        self.at, self.followed, self.late = 0, 0, False
        self.outside = np.inf  # bound of the fastest pipelines whose sequence of pools is not tried
        self.order, self.bounds = np.zeros(0, dtype=np.int64), np.zeros(0)
        if not len(self.table):
            return
        self.pools = Pools.of(question, constants)
        self.orders = pool_orders(question, self.pools, constants)
        self.has, self.stages = speeds(question, self.table, constants), stages_of(question, self.table)
        self.rooms, self.tails = rooms(question, self.table, constants), least_tail(self.has, self.stages)
        self.chunks = self._chunks()
        self.crossing = crossing_seconds(self.has, self.pools)
        every = bounds(question, self.has, self.stages, np.inf, self.crossing)
        self.fits = self.rooms.most_in_all(self.pools.limits, self.layers, every.shape[1]) >= self.layers
        self.fits &= np.arange(every.shape[1]) < longest(question, self.table, self.layers)[:, None]
        held = self.rooms.mean_layers(self.pools.limits, self.stages, self.layers)
        least = np.maximum(
            np.where(self.fits, every, np.inf).min(axis=1), slowest_stage_bound(question, self.has, self.stages, held)
        )
        order = np.argsort(least, kind="stable")
        self.order = order[np.isfinite(least[order])]
        self.bounds = least[self.order]

    def _chunks(self) -> list[int]:
        question, known = self.question, self.question.rules.schedules
        return [
            v for v, name in ((v, "interleaved" if v > 1 else "1f1b") for v in range(1, self.layers + 1))
            if self.layers % v == 0 and name in known and question.free("vpp", v)
            and question.free("schedule", name)
        ]  # fmt: skip

    def dive(self) -> None:
        """First answers of pipelines that take every stage there is, for something to beat: in a few orders of the
        pools, then the best of them in all orders."""
        total = self.stages.sum(axis=1)
        for p in np.unique(total[total <= self.layers]).tolist():
            if self._is_enough():
                return
            if p and self.question.free("pp", p):
                mine = self.order[total[self.order] == p][:_DIVED]
                self._try_first(self._full(mine, p) if len(mine) else Lines.none(p))
        for cell, p, v in self.kept.leading(_TRIED):
            shapes = ways(tuple(self.stages[cell].tolist()), self.orders)[0]
            if shapes.shape[1] == p:
                self._try_first(self._made(np.array([cell]), np.array([v]), [shapes]))

    def _full(self, mine: Table, p: int) -> Lines:
        cells, virtual, shapes = [], [], []
        for v in self.chunks:
            row = bounds(self.question, self.has.some(mine), self.stages[mine], v, self.crossing[mine])
            good = self._may_win(mine, v, row)[0][:, p - 1]
            for cell in mine[good]:
                whole = [np.repeat(order, self.stages[cell][list(order)]) for order in self.orders]
                cells.append(cell)
                virtual.append(v)
                shapes.append(np.array(whole, dtype=np.int64))
        return self._made(np.array(cells), np.array(virtual), shapes) if cells else Lines.none(p)

    def open_cells(self, progress: Progress | None, any_plan: bool) -> None:
        """Until the next cell's bound is beaten; or until there is a plan at all."""
        while self.at < len(self.order) and self.bounds[self.at] < self.kept.fastest:
            if self._is_late() or (any_plan and np.isfinite(self.kept.fastest)):
                return
            chunk = self.order[self.at : self.at + _CELLS]
            self._open(chunk[self.bounds[self.at : self.at + _CELLS] < self.kept.fastest])
            self.at += len(chunk)
            if progress is not None:
                progress(self.snapshot())

    def _open(self, chunk: Table) -> None:
        has, stages = self.has.some(chunk), self.stages[chunk]
        rows = {v: bounds(self.question, has, stages, v, self.crossing[chunk]) for v in self.chunks}
        good = {v: self._may_win(chunk, v, row) for v, row in rows.items()}
        least = {}
        for p in range(1, max((row.shape[1] for row in rows.values()), default=0) + 1):
            found = min(float(rows[v][good[v][0][:, p - 1], p - 1].min(initial=np.inf)) for v in rows)
            if np.isfinite(found) and self.question.free("pp", p):
                least[p] = found
        for p in sorted(least, key=lambda p: (least[p], p)):
            if self._is_enough():
                self.outside = min(self.outside, least[p])
                break
            part = self._lines(chunk, p, rows, good)
            self._try_first(part)
            self.open.append(part.some(np.flatnonzero(part.bound < self.kept.fastest)))

    def _may_win(self, chunk: Table, v: int, row: Array) -> tuple[Flags, Table]:
        """Which lengths (columns) of which cells could beat the best in so many chunks, and layers that a stage of each
        pool holds at most there."""
        p, m = np.arange(1, row.shape[1] + 1), self.has.micro_batches[chunk][:, None]
        good = (row < self.kept.fastest) & self.fits[chunk, : row.shape[1]]
        if v > 1:
            good &= (m % p == 0) & (p > 1) & (p <= self.layers // v)
        held = np.zeros((*row.shape, self.stages.shape[1]), dtype=np.int64)
        some = np.flatnonzero(good.any(axis=1))
        if len(some):
            mine = chunk[some]
            reach = self.rooms.some(mine).reach(p, v, self.pools.limits, self.layers)
            held[some] = held_under(self.has.some(mine), reach, v, self.tails[mine], self.kept.fastest)
            good[some] &= seats(held[some], self.stages[mine]) >= self.layers
        return good, held

    def _lines(self, chunk: Table, p: int, rows: dict[int, Array], good: dict[int, tuple[Flags, Table]]) -> Lines:
        cells, virtual, shapes = [], [], []
        for v, (may, held) in good.items():
            some = np.flatnonzero(may[:, p - 1] & (rows[v][:, p - 1] < self.kept.fastest))
            if not len(some):
                continue
            room = self._room(chunk[some], p, np.full(len(some), v))
            seats = np.minimum(room, held[some, p - 1][:, None, :])
            best = seats.max(axis=2)  # of every place
            for at in np.flatnonzero(np.all(best > 0, axis=1) & (best.sum(axis=1) >= self.layers)):
                row = some[at]
                shape = self._shapes(int(chunk[row]), p, v, seats[at], float(rows[v][row, p - 1]))
                if len(shape):
                    cells.append(chunk[row])
                    virtual.append(v)
                    shapes.append(shape)
        return self._made(np.array(cells), np.array(virtual), shapes) if cells else Lines.none(p)

    def _room(self, cells: Table, p: int, virtual: Table) -> Table:
        return self.rooms.some(cells).layers(p, virtual, self.pools.limits, self.layers)

    def _shapes(self, cell: int, p: int, v: int, held: Table, bound: float) -> Table:
        """Sequences of pools that could beat the best, the promising numbers of stages first; `outside` learns of those
        that are left out. `held`: layers per place and pool."""
        taken, whole = counts(tuple(self.stages[cell].tolist()), p, self.orders)
        if not whole:
            self.outside = min(self.outside, bound)
        taken = taken[taken @ held.max(axis=0) >= self.layers]
        least = np.maximum(bound, counts_bound(self.question, self.has, cell, taken, v) + self.tails[cell])
        order = np.argsort(least, kind="stable")
        order = order[least[order] < self.kept.fastest]
        found: list[Table] = []
        size = 0
        for row in that_seat(self.layers, held, taken[order]):
            at = order[row]
            shape, every = ways(tuple(taken[at].tolist()), self.orders)
            most = _SHAPES if least[at] < self.outside else _USUAL
            full = size > 0 and size + len(shape) > most
            if full or not every:
                self.outside = min(self.outside, float(least[at]))
            if full:
                break
            found.append(shape)
            size += len(shape)
        return np.concatenate(found) if found else np.zeros((0, p), dtype=np.int64)

    def _made(self, cells: Table, virtual: Table, shapes: list[Table], beat: float | None = None) -> Lines:
        p, beat = shapes[0].shape[1], self.kept.fastest if beat is None else beat
        room = self._room(cells, p, virtual)
        return lines(self.has.some(cells), cells, virtual, room, shapes, self.pools, self.layers, beat)

    def _try_first(self, part: Lines) -> None:
        if not len(part):
            return
        part = part.some(np.argsort(part.bound, kind="stable")[:_FIRST])
        layers, least = first_answers(part, self.layers)
        self.kept.note(part, layers, least)
        good = np.argsort(least, kind="stable")[:_TRIED]
        good = good[least[good] < self.kept.fastest]
        self.kept.cost(part.some(good), layers[good])

    def improve(self) -> None:
        """Where not every sequence of pools was tried: those beside the best, as long as they are faster."""
        for plan in self.kept.ranked()[:_TRIED] if np.isfinite(self.outside) else ():
            pools, fastest = plan.pools, plan.seconds
            for _ in range(_ROUNDS):
                if self._is_late():
                    return
                beside = neighbours(pools)
                for p in sorted({len(each) for each in beside}):
                    if self._may_have(plan.cell, p, plan.virtual):
                        shapes = np.array([each for each in beside if len(each) == p])
                        made = self._made(np.array([plan.cell]), np.array([plan.virtual]), [shapes], fastest)
                        self._try_first(made)
                best = self.kept.best_of(plan.cell, plan.virtual)
                if best.seconds >= fastest:
                    break
                pools, fastest = best.pools, best.seconds

    def _may_have(self, cell: int, p: int, v: int) -> bool:
        whole = v == 1 or (self.has.micro_batches[cell] % p == 0 and 1 < p <= self.layers // v)
        return bool(whole and p <= self.fits.shape[1] and self.fits[cell, p - 1] and self.question.free("pp", p))

    def go_through(self) -> None:
        """Every answer of the lines that could beat the best, in the order of their bounds."""
        left = []
        for p in sorted({part.pools.shape[1] for part in self.open}):
            part = joined([part for part in self.open if part.pools.shape[1] == p])
            part = part.some(np.flatnonzero(part.bound < self.kept.fastest))
            part = part.some(np.argsort(part.bound, kind="stable"))
            size, at = _LINES, 0
            while at < len(part) and part.bound[at] < self.kept.fastest:
                if self._is_late() or self.followed > _ANSWERS:
                    left.append(part.some(slice(at, None)))
                    break
                some = part.some(slice(at, at + size))
                if self._follow(some):
                    at += size
                elif size > 1:
                    size //= 4
                else:
                    left.append(some)
                    at += 1
        self.open = left

    def _follow(self, some: Lines) -> bool:
        which, layers, whole = every_answer(some, self.layers, self.kept.fastest, _FOLLOWED)
        self.followed += len(which) + len(some)
        if not whole:
            return False
        line = some.some(which)
        least = least_seconds(line, layers)
        order = np.argsort(least, kind="stable")
        for at in range(0, len(order), 512):
            part = order[at : at + 512]
            part = part[least[part] < self.kept.fastest]
            if not len(part):
                break
            self.kept.step(line.some(part), layers[part])
        return True

    def _is_enough(self) -> bool:
        """Out of time with a plan to show."""
        return bool(np.isfinite(self.kept.fastest)) and self._is_late()

    def _is_late(self) -> bool:
        self.late |= time.monotonic() > self.until
        return self.late

    def snapshot(self) -> Snapshot:
        """Where the search stands."""
        fastest = self.kept.fastest
        waiting = [part.bound[part.bound < fastest] for part in self.open]
        waiting += [self.bounds[self.at :][self.bounds[self.at :] < fastest], np.array([self.outside])]
        every = np.concatenate(waiting)
        every = every[every < fastest]
        best = fastest if np.isfinite(fastest) else None
        low = float(every.min()) if len(every) else best
        return Snapshot(best, low if best is None or low is None else min(low, best), len(every))

    def found(self) -> MixedFound:
        """What is known at the end."""
        plans, misfits = self.kept.ranked(), tuple[MixedPlan, ...]()
        if plans:
            misfits = fastest_misfits(
                self.question, self.table, self.has, self.stages, self.pools, self.orders, plans[0].seconds
            )
        return MixedFound(
            self.table, plans, misfits, self.snapshot(), len(self.order), self.at, self.kept.costed, self.late
        )
