"""Exact pipeline time: every pass of every micro-batch on every stage, started as soon as order and data allow.

For unequal stages, and for zero-bubble schedules, where closed forms are only bounds. 1F1B, GPipe and interleaved run
in their fixed order; zero-bubble schedules are built under a memory limit, greedily in time and from the family that
ZB-H1 and ZB-H2 belong to (Qi et al., ICLR 2024), and the shortest is kept. Deterministic: ties go to the lower stage.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Pass = tuple[str, int, int]  # F, B, W, or B and W in one (BW); chunk; micro-batch
MAX_PASSES = 2_000_000
_PATIENCE = (0.0, 0.5, 1.0)  # shares of a weight pass that a stage may wait for a backward that is on its way
_AHEAD = (1.0, 1.25, 1.5, 1.75, 2.0)  # forwards in the warm-up per stage still to come, of hand-made orders


@dataclass(frozen=True, slots=True)
class Stage:
    """Seconds of one micro-batch on one stage; `backward` without the weight gradients."""

    forward: float
    backward: float
    weight: float


@dataclass(frozen=True, slots=True)
class Bar:
    """One pass on the clock."""

    kind: Literal["F", "B", "W", "BW"]
    chunk: int
    micro_batch: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """Bars of every stage. `seconds`: from the first start to the last end. `longest_stage_s`: the longest time from
    a stage's own first start to its last end, which is what counts when iterations follow each other staggered."""

    stages: tuple[tuple[Bar, ...], ...]

    @property
    def seconds(self) -> float:
        return max(bars[-1].end_s for bars in self.stages)

    @property
    def longest_stage_s(self) -> float:
        return max(bars[-1].end_s - bars[0].start_s for bars in self.stages)


def fixed_order(schedule: str, p: int, m: int, v: int = 1) -> list[list[Pass]]:
    """Order of passes on every stage; a backward pass makes the weight gradients, too."""
    if schedule == "gpipe":
        forward = [("F", 0, i) for i in range(m)]
        return [[*forward, *(("BW", 0, i) for i in range(m))] for _ in range(p)]
    units = m * v
    orders = []
    for stage in range(p):
        warm = min(units, p - stage - 1 if v == 1 else 2 * (p - stage - 1) + (v - 1) * p)
        order: list[Pass] = [("F", *_unit(k, p, v, False)) for k in range(warm)]
        for k in range(units):
            if warm + k < units:
                order.append(("F", *_unit(warm + k, p, v, False)))
            chunk, micro = _unit(k, p, v, True)
            order.append(("BW", chunk, micro))
        orders.append(order)
    return orders


def _unit(k: int, p: int, v: int, backward: bool) -> tuple[int, int]:
    """Chunk and micro-batch of the k-th unit of work: groups of p micro-batches, chunk after chunk."""
    group, inside = divmod(k, p * v)
    chunk, micro = divmod(inside, p)
    return (v - 1 - chunk if backward else chunk), group * p + micro


def simulate(
    orders: Sequence[Sequence[Pass]], stages: Sequence[Stage], hop_s: float, v: int = 1, *, folded: bool = False
) -> Timeline:
    """Runs fixed orders. `folded`: chunk 1 of stage i comes after chunk 0 of all stages in reverse. Raises ValueError
    where an order waits for itself, or is too long."""
    p = len(stages)
    if sum(len(order) for order in orders) > MAX_PASSES:
        raise ValueError(f"more than {MAX_PASSES} passes")
    done: dict[tuple[str, int, int], float] = {}  # (kind, virtual stage, micro-batch) to its end
    bars: list[list[Bar]] = [[] for _ in range(p)]
    clock, next_, waiting = [0.0] * p, [0] * p, set(range(p))
    while waiting:
        moved = False
        for stage in sorted(waiting):
            while next_[stage] < len(orders[stage]):
                kind, chunk, micro = orders[stage][next_[stage]]
                place = 2 * p - 1 - stage if folded and chunk else chunk * p + stage
                turns = (p,) if folded else ()
                ready = _ready(done, kind, place, micro, p * v, hop_s, turns)
                if ready is None:
                    break
                start = max(clock[stage], ready)
                seconds = _seconds(stages[stage], kind) / v
                clock[stage] = start + seconds
                done[kind[0], place, micro] = clock[stage]
                bars[stage].append(Bar(kind, chunk, micro, start, clock[stage]))  # type: ignore[arg-type]
                next_[stage] += 1
                moved = True
            if next_[stage] == len(orders[stage]):
                waiting.discard(stage)
        if not moved:
            raise ValueError("the order of passes waits for itself")
    return Timeline(tuple(tuple(row) for row in bars))


def _ready(
    done: dict[tuple[str, int, int], float], kind: str, place: int, micro: int, places: int, hop_s: float,
    turns: tuple[int, ...] = (),
) -> float | None:  # fmt: skip
    """`turns`: places whose input comes from the same stage, without a transfer."""
    if kind == "F":
        if place == 0:
            return 0.0
        before = done.get(("F", place - 1, micro))
        return None if before is None else before + (0.0 if place in turns else hop_s)
    if kind == "W":
        return done.get(("B", place, micro))
    own = done.get(("F", place, micro))
    if own is None or place == places - 1:
        return own
    after = done.get(("B", place + 1, micro))
    return None if after is None else max(own, after + (0.0 if place + 1 in turns else hop_s))


def _seconds(stage: Stage, kind: str) -> float:
    if kind == "F":
        return stage.forward
    return (stage.backward if kind[0] == "B" else 0.0) + (stage.weight if kind[-1] == "W" else 0.0)


def zero_bubble(
    stages: Sequence[Stage], m: int, hop_s: float, limit: float | Sequence[float], kept: float = 1.0
) -> Timeline:
    """The shortest schedule found whose stages hold at most `limit` micro-batches' activations (each its own, where
    stages differ in size). `kept`: share of them that stays between a backward and its weight pass."""
    if 3 * m * len(stages) > MAX_PASSES:
        raise ValueError(f"more than {MAX_PASSES} passes")
    each = [limit] * len(stages) if isinstance(limit, int | float) else limit
    limits = [max(float(value), 1.0) for value in each]
    held = [int(value) for value in limits]
    tried = [_greedy(stages, m, hop_s, limits, kept, patience) for patience in _PATIENCE]
    tried += [simulate(delayed_order(len(stages), m, held, ahead), stages, hop_s) for ahead in _AHEAD]
    return min(tried, key=lambda found: found.longest_stage_s)


def delayed_order(p: int, m: int, limit: int | Sequence[int], ahead: float) -> list[list[Pass]]:
    """1F1B with a longer warm-up and weight passes put off as far as memory allows: 1 ahead is ZB-H1, 2 is ZB-H2."""
    limits = [limit] * p if isinstance(limit, int) else limit
    orders = []
    for stage in range(p):
        warm = min(m, limits[stage], 1 + round(ahead * (p - 1 - stage)))
        late = max(limits[stage] - warm, 0)
        order: list[Pass] = [("F", 0, i) for i in range(warm)]
        for k in range(m):
            order.append(("B", 0, k))
            if k >= late:
                order.append(("W", 0, k - late))
            if warm + k < m:
                order.append(("F", 0, warm + k))
        order += [("W", 0, k) for k in range(max(m - late, 0), m)]
        orders.append(order)
    return orders


def _greedy(
    stages: Sequence[Stage], m: int, hop_s: float, limits: Sequence[float], kept: float, patience: float
) -> Timeline:
    p = len(stages)
    inputs: list[list[float]] = [[] for _ in range(p)]  # arrival of forward inputs, of gradients
    grads: list[list[float]] = [[] for _ in range(p)]
    inputs[0] = [0.0] * m
    forward, backward, weight, free = [0] * p, [0] * p, [0] * p, [0.0] * p
    bars: list[list[Bar]] = [[] for _ in range(p)]
    queue = [(0.0, stage) for stage in range(p)]
    while queue:
        now, stage = heapq.heappop(queue)
        if now < free[stage]:
            continue
        cost = stages[stage]
        can_back = backward[stage] < len(grads[stage])
        holds = forward[stage] - backward[stage] + kept * (backward[stage] - weight[stage])
        can_go = forward[stage] < len(inputs[stage]) and holds + 1.0 <= limits[stage] + 1e-9
        if can_back and grads[stage][backward[stage]] <= now:
            kind, seconds, micro = "B", cost.backward, backward[stage]
            backward[stage] += 1
            if stage:
                grads[stage - 1].append(now + seconds + hop_s)
                heapq.heappush(queue, (now + seconds + hop_s, stage - 1))
        elif can_go and inputs[stage][forward[stage]] <= now:
            kind, seconds, micro = "F", cost.forward, forward[stage]
            forward[stage] += 1
            if stage < p - 1:
                inputs[stage + 1].append(now + seconds + hop_s)
                heapq.heappush(queue, (now + seconds + hop_s, stage + 1))
            else:
                grads[stage].append(now + seconds)
        elif weight[stage] < backward[stage] and not (
            can_back and grads[stage][backward[stage]] < now + patience * cost.weight
        ):
            kind, seconds, micro = "W", cost.weight, weight[stage]
            weight[stage] += 1
        else:
            continue  # woken again by what arrives
        free[stage] = now + seconds
        bars[stage].append(Bar(kind, 0, micro, now, free[stage]))  # type: ignore[arg-type]
        heapq.heappush(queue, (free[stage], stage))
    return Timeline(tuple(tuple(row) for row in bars))
