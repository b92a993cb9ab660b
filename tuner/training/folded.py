"""Folded pipelines: stage i holds chunk i and chunk 2p - 1 - i, so memory evens out. Orders of passes, memory, bubbles.

ZB-V (Qi et al., ICLR 2024) fills its warm-up with forwards and has no bubble where forward, input and weight gradients
take equally long. V-Half and V-Min (Qi et al., arXiv 2405.15362) repeat one pattern every six passes: the shorter a
micro-batch stays on a stage, the less memory, the longer the bubble. The patterns here are built, not copied: each pass
takes the earliest slot that the ones before leave free.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tuner.training.columns import Array
from tuner.training.simulate import Pass

# Slots between neighbouring stages: forward down and up, backward down and up.
_STEPS = {"v-half": (1, 2, 1, 2), "v-min": (1, 1, 1, 1)}
_PERIOD = 6  # two chunks, three passes each
_KINDS = ("zb-v", "v-half", "v-min")  # in the order of their codes
MOST_STAGES = 256  # their orders have 12 p^2 passes, all of them looked at for what stages hold


def folded_order(schedule: str, p: int, m: int) -> list[list[Pass]]:
    """Order of passes on every stage."""
    if schedule == "zb-v":
        return [_zero_bubble(stage, p, m) for stage in range(p)]
    starts = _pattern(schedule, p)
    orders: list[list[Pass]] = []
    for row in starts:
        timed = sorted((at + _PERIOD * k, kind, chunk, k) for (kind, chunk), at in row.items() for k in range(m))
        orders.append([(kind, chunk, k) for _, kind, chunk, k in timed])
    return orders


@lru_cache(maxsize=4096)
def held(schedule: str, p: int) -> tuple[float, ...]:
    """Micro-batches whose activations each stage holds at its peak, both chunks together, with many micro-batches."""
    peaks = []
    for order in folded_order(schedule, p, 2 * p + 2):
        now = most = 0
        for kind, _, _ in order:
            now += (kind == "F") - (kind == "W")
            most = max(most, now)
        peaks.append(most / 2.0)
    return tuple(peaks)


def in_flight(code: Array, p: Array, m: Array, stages: int, first_code: float) -> Array:
    """`held` for columns of configurations that all have at least `stages` stages, shape (configurations, stages)."""
    found = np.zeros((len(p), stages))
    for number in np.unique(code[code >= first_code]):
        kind = _KINDS[int(number - first_code)]
        for length in np.unique(p[code == number]):
            which = (code == number) & (p == length)
            found[which, : int(length)] = np.array(held(kind, int(length)))[:stages]
    return np.minimum(m[:, None], found)


def cycle_and_fill(
    code: Array, p: Array, m: Array, forward: Array, inputs: Array, weight: Array
) -> tuple[Array, Array]:
    """Seconds per micro-batch in the steady state, and what warm-up and drain add, on equal stages. `code`: 0 ZB-V, 1
    V-Half, 2 V-Min.

    ZB-V: exact for m of at least 2p - 1. The patterns: fitted to their simulation at forward, input and weight
    gradients between 0.6 and 2 of each other, within 4 % of the iteration from 2p micro-batches on (unit tests).
    """
    work, longest = forward + inputs + weight, np.maximum(np.maximum(forward, inputs), weight)
    cycle = np.where(code < 1, work, np.where(code < 2, np.maximum(work, 2.0 * longest + forward / 2.0), 3.0 * longest))
    short = np.clip(2.0 - m / np.maximum(p, 1.0), 0.0, 1.0) * weight
    fold = np.maximum(inputs - weight, 0.0) + short
    fill = np.where(code < 1, fold, np.where(code < 2, 0.84 * (forward + inputs), 0.95 * (forward + inputs)))
    return np.maximum(cycle, work), (p - 1.0) * fill


def _zero_bubble(stage: int, p: int, m: int) -> list[Pass]:
    """ZB-V on one stage, as if there were at least 2p - 1 micro-batches; those that are not there are left out."""
    order: list[Pass] = []
    count = {(kind, chunk): 0 for kind in "FBW" for chunk in (0, 1)}

    def add(*passes: tuple[str, int]) -> None:
        for kind, chunk in passes:
            order.append((kind, chunk, count[kind, chunk]))
            count[kind, chunk] += 1

    add(*[("F", 0)] * (2 * (p - stage) - 1))
    add(*[("F", 1), ("F", 0)] * stage)
    add(*[("F", 1), ("B", 1), ("W", 1)] * (p - stage))
    whole = max(2 * p - 1, m)
    while count["F", 1] < max(count["F", 0], whole):
        if count["F", 0] < whole:
            add(("F", 0))
        add(("B", 0), ("W", 0), ("F", 1), ("B", 1), ("W", 1))
    add(*[("B", 0), ("B", 1)] * stage, *[("B", 0), ("W", 0)] * (p - stage))
    for chunk in (1, 0):
        add(*[("W", chunk)] * (count["B", chunk] - count["W", chunk]))
    return [one for one in order if one[2] < m]


@lru_cache(maxsize=256)
def _pattern(schedule: str, p: int) -> tuple[dict[tuple[str, int], int], ...]:
    """Slot of every pass of the first micro-batch, per stage."""
    down, up, back_down, back_up = _STEPS[schedule]
    rows: list[dict[tuple[str, int], int]] = [{} for _ in range(p)]
    taken: list[set[int]] = [set() for _ in range(p)]

    def put(kind: str, chunk: int, stage: int, slot: int) -> int:
        while slot % _PERIOD in taken[stage]:
            slot += 1
        taken[stage].add(slot % _PERIOD)
        rows[stage][kind, chunk] = slot
        return slot

    slot = -down
    for kind, chunk, step, path in (
        ("F", 0, down, range(p)), ("F", 1, up, range(p - 1, -1, -1)), ("B", 1, back_down, range(p)),
        ("B", 0, back_up, range(p - 1, -1, -1)),
    ):  # fmt: skip
        for at, stage in enumerate(path):
            slot = put(kind, chunk, stage, slot + (step if at or kind + str(chunk) == "F0" else 1))
    for stage in range(p):
        for chunk in (1, 0):
            put("W", chunk, stage, rows[stage]["B", chunk] + 1)
    return tuple(rows)
