"""Plans over several pools that do not fit: the fastest of them, and the one that lacks least where none fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuner.training.columns import Array
from tuner.training.constants import Constants
from tuner.training.planner.mixed.bounds import Speeds, least_tail
from tuner.training.planner.mixed.cells import Table, cells, longest, stages_of
from tuner.training.planner.mixed.fill import first_answers
from tuner.training.planner.mixed.kept import MixedPlan
from tuner.training.planner.mixed.lines import Pools, lines
from tuner.training.planner.mixed.orders import pool_orders
from tuner.training.planner.mixed.rooms import Rooms, rooms
from tuner.training.planner.mixed.sequences import Orders
from tuner.training.planner.question import PlanQuestion

_CELLS = 64  # fastest cells of each length, or roomiest cells, that are looked at
_HALVINGS = 48
_MOST_BYTES = 1e14


@dataclass(frozen=True, slots=True)
class Nearest:
    """The plan that lacks least, `over_bytes` on every device of its fullest stage."""

    table: Table
    plan: MixedPlan
    over_bytes: float


def fastest_misfits(
    question: PlanQuestion, table: Table, has: Speeds, stages: Table, pools: Pools, orders: Orders, beat: float
) -> tuple[MixedPlan, ...]:
    """Plans over all stages there are that would beat a time, were there memory enough; fastest first. Some of them
    may fit."""
    layers, total, found = question.case.model.layers, stages.sum(axis=1), list[MixedPlan]()
    with np.errstate(divide="ignore"):
        bound = has.micro_batches * layers / (stages / has.layer).sum(axis=1) + least_tail(has, stages)
    for p in np.unique(total[(total > 0) & (total <= layers)]).tolist():
        if not question.free("pp", p) or not question.free("vpp", 1) or not question.free("schedule", "1f1b"):
            continue
        mine = np.flatnonzero((total == p) & (bound < beat) & (longest(question, table, layers) >= p))
        mine = mine[np.argsort(bound[mine], kind="stable")][:_CELLS]
        if not len(mine):
            continue
        shapes = [np.array([np.repeat(order, stages[cell][list(order)]) for order in orders]) for cell in mine]
        room = np.full((len(mine), p, stages.shape[1]), layers, dtype=np.int64)
        line = lines(has.some(mine), mine, np.ones(len(mine), dtype=np.int64), room, shapes, pools, layers, beat)
        if len(line):
            counts, least = first_answers(line, layers)
            found += [
                MixedPlan(float(least[at]), int(line.cell[at]), 1, tuple(line.pools[at].tolist()), tuple(counts[at].tolist()))
                for at in np.flatnonzero(least < beat)
            ]  # fmt: skip
    return tuple(sorted(found))


def nearest_to_fitting(question: PlanQuestion, constants: Constants) -> Nearest | None:
    """The plan that lacks least among those of the roomiest cells, of every length, pools in the usual orders. None
    where there is no cell or no such length."""
    table = cells(question)
    if not len(table):
        return None
    stages, pools, has = stages_of(question, table), Pools.of(question, constants), rooms(question, table, constants)
    layers, best = question.case.model.layers, None
    roomy = (has.mean_layers(pools.limits, stages, layers) * stages).sum(axis=1)
    kept = np.argsort(-roomy, kind="stable")[:_CELLS]
    orders, total = pool_orders(question, pools, constants), stages.sum(axis=1)
    for p in range(1, min(int(total[kept].max(initial=0)), layers) + 1):
        mine = kept[(total[kept] >= p) & (longest(question, table[kept], layers) >= p)]
        if question.free("pp", p) and len(mine):
            for order in orders:
                found = _lack(has.some(mine), stages[mine], order, p, pools, layers)
                at = int(found[0].argmin())
                if best is None or found[0][at] < best.over_bytes:
                    plan = MixedPlan(
                        np.inf, int(mine[at]), 1, tuple(found[1][at].tolist()), _trimmed(found[2][at], layers)
                    )
                    best = Nearest(table, plan, float(found[0][at]))
    return best


def _lack(
    has: Rooms, stages: Table, order: tuple[int, ...], p: int, pools: Pools, layers: int
) -> tuple[Array, Table, Table]:
    """Bytes more on every device with which the first p stages in this order hold the layers, the pools of these
    stages, and the layers that they hold then."""
    stands = np.array([np.repeat(order, count[list(order)])[:p] for count in stages])
    chunks = np.ones(len(stages), dtype=np.int64)

    def seated(more: Array) -> Table:
        room = has.layers(p, chunks, pools.limits + more[:, None, None], layers)
        return np.take_along_axis(room, stands[:, :, None], 2)[:, :, 0]

    low, high = np.zeros(len(stages)), np.full(len(stages), _MOST_BYTES)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        room = seated(middle)
        fits = (room.sum(axis=1) >= layers) & (room.min(axis=1) > 0)
        low, high = np.where(fits, low, middle), np.where(fits, middle, high)
    return high, stands, seated(high)


def _trimmed(room: Table, layers: int) -> tuple[int, ...]:
    """Layers that add up, taken from the fullest stages."""
    counts = [int(count) for count in room]
    for _ in range(sum(counts) - layers):
        counts[int(np.argmax(counts))] -= 1
    return tuple(counts)
