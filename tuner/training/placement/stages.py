"""How many stages, how wide each, with how many layers: for classes with nodes to give and several widths per stage.

A stage of a class may span different numbers of nodes (tensor parallel degree, replicas inside the stage). Under one
limit on the slowest stage a dynamic programme over (stages from the end, class, nodes given, layers done) finds the
least sum; limits are halved and cut where even the interval's least sum at its lowest limit cannot win. Counting
stages from the end makes the micro-batches in flight, min(m, stages from here on), known at every step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from controlplane.model.errors import InvalidSpec
from tuner.training.placement.bound import widths_bound_s
from tuner.training.placement.fit import no_pipeline
from tuner.training.placement.order import best_path
from tuner.training.placement.problem import MAX_STAGES, StagePlan, Width, check_hops, check_shape, check_sizes

_ROUNDING = 1e-9  # of a layer
_EVERY_ORDER = 6  # most classes that may stand in any order
_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Step:
    """One choice: the stage `stage` places from the end."""

    place: int
    width: Width
    layers: int
    nodes: int  # of its class given to later stages
    done: int  # layers on later stages


def choose_stages(
    widths: Sequence[Sequence[Width]],
    nodes: Sequence[int],
    layers: int,
    micro_batches: int,
    hop_s: Sequence[Sequence[float]],
    *,
    most_stages: int = 64,
    beat_s: float = math.inf,
) -> StagePlan | None:
    """The fastest pipeline that takes at most `nodes[k]` nodes of class k, each stage in one of `widths[k]`; nodes may
    stay idle. 1F1B; every class is one block; in any order up to 6 classes, else in the cheapest path's. None where
    no plan is faster than `beat_s`, a time already in hand. Raises InvalidSpec, and Refused where nothing fits."""
    check_sizes(layers, micro_batches)
    check_hops(hop_s, len(widths))
    if len(nodes) != len(widths) or not widths:
        raise InvalidSpec("one number per class", field="nodes", value=len(nodes), limit=str(max(1, len(widths))))
    if not 1 <= most_stages <= MAX_STAGES:
        raise InvalidSpec("out of range", field="most_stages", value=most_stages, limit=f"1 to {MAX_STAGES}")
    for index, (ways, count) in enumerate(zip(widths, nodes, strict=True)):
        if not 0 <= count <= 1 << 16:
            raise InvalidSpec("out of range", field=f"nodes[{index}]", value=count, limit="0 to 65536")
        for way in ways:
            check_shape(way, f"widths[{index}]")
            if min(way.tp, way.dp, way.nodes) < 1:
                raise InvalidSpec("below 1", field=f"widths[{index}]", value=(way.tp, way.dp, way.nodes), limit="1")
    every = len(widths) <= _EVERY_ORDER
    slowest, bound = widths_bound_s(widths, nodes, layers, micro_batches)
    if bound >= beat_s and math.isfinite(bound):
        return None
    search = _Search(None if every else best_path(hop_s)[0], widths, nodes, layers, micro_batches, hop_s, most_stages)
    best = search.best(beat_s, slowest)
    if best is None:
        if math.isfinite(beat_s) and search.fits():
            return None
        raise no_pipeline(widths, nodes, layers, micro_batches, most_stages)
    return replace(best, bound_s=best.iteration_s if every else min(bound, best.iteration_s), exact=every)


class _Search:
    """Pipelines built from the last stage forwards. A place is a class that stages stand in now together with what
    stands behind it: any set of other classes, or where an order is given, the later ones of that order."""

    def __init__(
        self,
        order: Sequence[int] | None,
        widths: Sequence[Sequence[Width]],
        nodes: Sequence[int],
        layers: int,
        micro_batches: int,
        hop_s: Sequence[Sequence[float]],
        most_stages: int,
    ) -> None:
        if order is None:
            sets = range(1 << len(widths))
            held = [(behind, each) for behind in sets for each in range(len(widths)) if not behind >> each & 1]
            number = {key: index for index, key in enumerate(held)}
            self.order = [each for _, each in held]
            # The place before: the class handed over to, with one less behind it.
            self.behind = [
                [number[behind ^ 1 << each, each] for each in range(len(widths)) if behind >> each & 1]
                for behind, _ in held
            ]
            self.starts = [behind == 0 for behind, _ in held]
        else:
            self.order = list(reversed(order))
            self.behind = [list(range(place)) for place in range(len(order))]
            self.starts = [True] * len(order)
        self.ways = [[way for way in widths[each] if way.nodes <= nodes[each]] for each in self.order]
        self.nodes = [nodes[each] for each in self.order]
        self.layers, self.repeats = layers, micro_batches - 1
        self.micro_batches = micro_batches
        self.hop = [[2.0 * value for value in row] for row in hop_s]  # of classes, early to late
        self.depth = min(most_stages, layers)
        self.cheapest = min((way.layer_s for ways in self.ways for way in ways), default=0.0)

    def fits(self) -> bool:
        """Whether any plan fits, however slow."""
        limits = self._limits()
        return bool(limits.size) and math.isfinite(self._least_sum(limits[-1], math.inf))

    def best(self, beat: float, slowest: float) -> StagePlan | None:
        """The fastest plan that beats `beat`; no stage limit below `slowest` can be met."""
        limits = self._limits()
        limits = limits[limits >= slowest * (1.0 - 1e-12)]
        if not limits.size:
            return None
        turns, last = self.repeats * limits, len(limits) - 1
        value, at = beat, -1
        least = self._least_sum(limits[last], value - turns[0])
        if least + turns[last] < value:
            value, at = least + turns[last], last
        open_ = [(0, last, least)]  # limits low..high-1 still to try; none of their sums is below the third number
        while open_:
            low, high, floor = open_.pop()
            if low >= high or floor + turns[low] >= value:
                continue
            middle = (low + high - 1) // 2
            # Sums that cannot win even at the lowest limit left need not be told apart from none.
            found = self._least_sum(limits[middle], value - turns[low])
            if found + turns[middle] < value:
                value, at = found + turns[middle], middle
            open_.append((middle + 1, high, floor))
            open_.append((low, middle, found))
        return self._plan(limits[at]) if at >= 0 else None

    def _limits(self) -> _Array:
        """Every time that a stage can take."""
        parts = []
        for ways in self.ways:
            for way in ways:
                most = min(self.layers, way.most_layers(1, False, False))
                for first, last in itertools.product((False, True), repeat=2):
                    parts.append(way.extra_s(first, last) + way.layer_s * np.arange(1, most + 1))
        return np.unique(np.concatenate(parts)) if parts else np.empty(0)

    def _room(self, way: Width, stage: int, limit: float, first: bool) -> int:
        """Layers of the stage `stage` places from the end under the limit and in memory."""
        last = stage == 0
        most = way.most_layers(min(self.micro_batches, stage + 1), first, last)
        fast = math.floor((limit - way.extra_s(first, last)) / way.layer_s + _ROUNDING)
        return max(0, min(self.layers, most, fast))

    def _least_sum(self, limit: float, below: float) -> float:
        """Least sum under the limit, infinite where none is below `below`."""
        return self._run(limit, below)[0]

    def _run(self, limit: float, below: float) -> tuple[float, tuple[int, _Step] | None, list[list[_Array]]]:
        """Least sum of stage times and hops, its first stage, and the tables behind it."""
        value = below
        closing: tuple[int, _Step] | None = None
        tables: list[list[_Array]] = []
        rest = self.cheapest * np.arange(self.layers, -1, -1)  # no layer still to do costs less
        for stage in range(self.depth):
            entries = self._entries(tables[-1] if tables else None)
            table = []
            for place, (entry, ways) in enumerate(zip(entries, self.ways, strict=True)):
                reached = np.full_like(entry, np.inf)
                table.append(reached)
                if float((entry + rest).min()) >= value:
                    continue  # no pipeline that goes on from here has a lower sum; also where none is left
                for way in ways:
                    free = entry[: self.nodes[place] - way.nodes + 1]
                    most = self._room(way, stage, limit, True)
                    if most:
                        closed = way.extra_s(True, stage == 0) + way.layer_s * np.arange(most, 0, -1)
                        total = free[:, self.layers - most : self.layers] + closed
                        flat = int(np.argmin(total))
                        if total.flat[flat] < value:
                            value = float(total.flat[flat])
                            given, index = divmod(flat, most)
                            left = self.layers - most + index
                            closing = stage, _Step(place, way, self.layers - left, given, left)
                    most = self._room(way, stage, limit, False)
                    if most:
                        into = reached[way.nodes :]
                        np.minimum(into, _extended(free, way, most, stage == 0), out=into)
            tables.append(table)
            if min(float(each.min()) for each in table) == np.inf:
                break
        return (math.inf if closing is None else value), closing, tables

    def _entries(self, later: list[_Array] | None) -> list[_Array]:
        """Sums before the next stage, per class: nodes given x layers done. Row 0 comes from classes behind."""
        if later is None:
            entries = [np.full((count + 1, self.layers + 1), np.inf) for count in self.nodes]
            for entry, starts in zip(entries, self.starts, strict=True):
                entry[0, 0] = 0.0 if starts else np.inf
            return entries
        ends = [each.min(axis=0) for each in later]
        entries = []
        for place, each in enumerate(later):
            hop = self.hop[self.order[place]]
            entry = each + hop[self.order[place]]
            for behind in self.behind[place]:
                np.minimum(entry[0], ends[behind] + hop[self.order[behind]], out=entry[0])
            entries.append(entry)
        return entries

    def _plan(self, limit: float) -> StagePlan:
        _, closing, tables = self._run(limit, math.inf)
        assert closing is not None
        stage, step = closing
        steps = [step]
        while stage > 0:
            stage -= 1
            step = self._before(tables, stage, step, limit)
            steps.append(step)
        count = len(steps)
        times = tuple(
            each.width.extra_s(index == 0, index == count - 1) + each.width.layer_s * each.layers
            for index, each in enumerate(steps)
        )
        classes = tuple(self.order[each.place] for each in steps)
        hops = math.fsum(self.hop[one][two] for one, two in itertools.pairwise(classes)) / 2.0
        return StagePlan(
            classes=classes,
            widths=tuple(each.width for each in steps),
            layers=tuple(each.layers for each in steps),
            stage_s=times,
            hops_s=hops,
            iteration_s=math.fsum(times) + self.repeats * max(times) + 2.0 * hops,
            bound_s=0.0,
            exact=True,
        )

    def _before(self, tables: list[list[_Array]], stage: int, step: _Step, limit: float) -> _Step:
        """The stage behind `step`, which gave `step.nodes` nodes of its class and did `step.done` layers in all."""
        place, given = step.place, step.nodes
        if given == 0:
            hop = self.hop[self.order[place]]
            ends = [tables[stage][each][:, step.done].min() + hop[self.order[each]] for each in self.behind[place]]
            place = self.behind[place][int(np.argmin(ends))]
            given = int(np.argmin(tables[stage][place][:, step.done]))
        entry = self._entries(tables[stage - 1] if stage else None)[place]
        best: tuple[float, _Step] | None = None
        for way in self.ways[place]:
            for count in range(1, min(self._room(way, stage, limit, False), step.done) + 1):
                if way.nodes > given:
                    break
                nodes, done = given - way.nodes, step.done - count
                total = float(entry[nodes, done]) + way.extra_s(False, stage == 0) + way.layer_s * count
                if math.isfinite(total) and (best is None or total < best[0]):
                    best = total, _Step(place, way, count, nodes, done)
        assert best is not None
        return best[1]


def _extended(free: _Array, way: Width, most: int, last: bool) -> _Array:
    """Least sum with one more stage of 1..most layers, for every number of layers done."""
    layers = np.arange(free.shape[1])
    least = free - way.layer_s * layers
    size = 1  # least[l] is the minimum of that many entries up to l: doubled until it is `most`
    while size < most:
        step = min(size, most - size)
        longer = least.copy()
        np.minimum(least[:, step:], least[:, :-step], out=longer[:, step:])
        least, size = longer, size + step
    out = np.empty_like(least)
    out[:, 0] = np.inf
    np.add(least[:, :-1], way.extra_s(False, last) + way.layer_s * layers[1:], out=out[:, 1:])
    return out
