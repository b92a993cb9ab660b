"""Pipeline time in closed form, vectorised. `simulate` gives the exact time where these are only bounds.

`forward`, `backward` and `weight` are seconds of one micro-batch on each stage, shape (configurations, stages);
backward includes weight. `hop` is one transfer between neighbouring stages.
"""

from __future__ import annotations

import numpy as np

from tuner.training import folded
from tuner.training.columns import FOLDED_CODE, Array


def pipeline_time(
    schedule: Array,
    p: Array,
    m: Array,
    v: Array,
    stages: Array,
    slowest: Array,
    weight: Array,
    hop: Array,
    hidden: Array,
    passes: tuple[Array, Array] | None = None,
    link: Array | float = 0.0,
) -> Array:
    """Time of m micro-batches: every stage once, the slowest m - 1 times more, hops on the way and in the cycle.

    `stages` is the sum over stages of one micro-batch's time, `slowest` its maximum, `weight` the weight-gradient part
    of the slowest stage; `hidden` transfers cost nothing once the pipeline is full. `passes`: forward and input
    gradients of an inner stage, which folded schedules need (thirds of the slowest where not said). `link`: seconds of a
    micro-batch's transfers on the busiest link: no cycle is shorter. Exact for equal stages but for V-Half and V-Min; a
    lower bound where the ratio of forward to backward differs.
    """
    fill = stages - slowest
    cycle = slowest + ((p > 1) & (hidden < 1)) * 2.0 * hop * np.where(schedule == 2, v, 1.0)
    saved = np.where(schedule == 3, 2.0 * weight, np.where(schedule == 4, 3.0 * weight, 0.0)) * (p - 1.0)
    fill = np.where(schedule == 2, fill / v, np.maximum(fill - saved, 0.0))
    if np.any(schedule >= FOLDED_CODE):
        forward, inputs = (slowest / 3.0, np.maximum(slowest * 2.0 / 3.0 - weight, 0.0)) if passes is None else passes
        slow, wait = folded.cycle_and_fill(schedule - FOLDED_CODE, p, m, forward, inputs, weight)
        cycle = np.where(schedule >= FOLDED_CODE, np.maximum(slowest, slow) + cycle - slowest, cycle)
        fill = np.where(schedule >= FOLDED_CODE, wait, fill)
    return np.asarray(m * np.maximum(cycle, link) + fill + 2.0 * (p - 1.0) * hop)


def in_flight(schedule: Array, p: Array, m: Array, v: Array, stage: Array) -> Array:
    """Micro-batches whose activations a stage holds at its peak, shape (configurations, stages).

    One formula for all schedules, min(m, most - slope x stage): 1F1B p - i; GPipe m; ZB-H2 2p - 1; interleaved warm-up
    of (v - 1) p + 2 (p - i) - 1 chunks of 1/v of the layers, one more in the steady state. Folded: counted (`folded`).
    """
    most = np.where(schedule == 2, (v - 1.0 + 2.0) * p / v - 1.0 / v, p)
    most = np.where(schedule == 4, 2.0 * p - 1.0, np.where(schedule == 0, m, most))
    slope = np.where(schedule == 2, 2.0 / v, np.where((schedule == 4) | (schedule == 0), 0.0, 1.0))
    found = np.minimum(m[:, None], most[:, None] - slope[:, None] * stage[None, :])
    if np.any(schedule >= FOLDED_CODE):
        bent = folded.in_flight(schedule, p, m, len(stage), FOLDED_CODE)
        found = np.where(schedule[:, None] >= FOLDED_CODE, bent, found)
    return np.asarray(found)
