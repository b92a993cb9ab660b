"""Bubble rates of six schedules (Qi et al., ICLR 2024, Table 5) from simulated pipelines.

The paper computes them from profiled pass times that it does not print. They are found here per model on the smallest
number of micro-batches: forward is 1, and backward, weight, one hop and what the two end stages carry beyond their
layers are fitted to 1F1B, ZB-H1 and ZB-H2. Interleaved 1F1B, ZB-1p, ZB-2p and all larger numbers are predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from controlplane.model.errors import TrimtabError
from tuner.training.columns import Array
from tuner.training.loaders.rows import number, records, whole
from tuner.training.simulate import Stage, delayed_order, fixed_order, simulate, zero_bubble

_LAYERS = {"1.5B": 3, "6.2B": 4, "14.6B": 3, "28.3B": 2}  # per stage; the ends have one less (Table 3)
_FITTED = ("1F1B", "ZB-H1", "ZB-H2")
_START = np.array([1.0, 0.75, 0.03, 0.22, 0.02])  # backward, weight, hop, extra of the last and of the first stage
_STEPS = np.array([0.05, 0.05, 0.01, 0.05, 0.02])
_KEPT = 32 / (34 + 40)  # inputs of the weight pass of all that is kept, 5 a s / h being 40 in most of the models
_ROUNDS = 14


@dataclass(frozen=True, slots=True)
class Bubble:
    """One row: the printed rate, the simulated one, and whether the row was used to find the pass times."""

    model: str
    micro_batches: int
    schedule: str
    printed: float
    simulated: float
    fitted: bool


def bubbles(path: Path, most: int | None = None) -> list[Bubble]:
    """All rows of the table, or those of at most `most` micro-batches; unreadable ones are left out."""
    rows = []
    for _, record in records(path):
        try:
            rows.append((record["model"], whole(record, "p"), whole(record, "m"), record["schedule"],
                         number(record, "bubble_rate")))  # fmt: skip
        except TrimtabError:
            continue
    found = []
    for model, layers in _LAYERS.items():
        own = [row for row in rows if row[0] == model]
        if not own:
            continue
        least = min(row[2] for row in own)
        inputs = _search([row for row in own if row[2] == least and row[3] in _FITTED], layers)
        for _, p, m, schedule, printed in own:
            if most is None or m <= most:
                fitted = m == least and schedule in _FITTED
                found.append(Bubble(model, m, schedule, printed, rate(schedule, p, m, layers, inputs), fitted))
    return found


def rate(schedule: str, p: int, m: int, layers: int, inputs: Array) -> float:
    """Simulated bubble rate: idle share of the stage that is longest at work."""
    backward, weight, hop, last, first = inputs.tolist()
    short = (layers - 1) / layers
    stages = [Stage(1.0, backward, weight)] * p
    stages[0] = Stage(short + first, backward * short + first / 2, weight * short + first / 2)
    stages[-1] = Stage(short + last, backward * short + last, weight * short + last)
    if schedule == "1F1B":
        line = simulate(fixed_order("1f1b", p, m), stages, hop)
    elif schedule == "1F1B-I":
        line = simulate(fixed_order("interleaved", p, m, layers), stages, hop, layers)
    elif schedule == "ZB-2p":
        ends = 2 * p / short  # the end stages keep fewer layers of each micro-batch in the same memory
        line = zero_bubble(stages, m, hop, [ends, *[2.0 * p] * (p - 2), ends], _KEPT)
    else:
        ahead, held = (2.0, 2 * p - 1) if schedule == "ZB-H2" else (1.0, p)
        line = simulate(delayed_order(p, m, held, ahead), stages, hop)
    return float(1.0 - m * (1.0 + backward + weight) / line.longest_stage_s)


def _search(rows: list[tuple[str, int, int, str, float]], layers: int) -> Array:
    """Pattern search: one input after the other, steps halved when nothing helps. Deterministic."""

    def miss(inputs: Array) -> float:
        if (inputs < 0).any():
            return float("inf")
        return sum((rate(schedule, p, m, layers, inputs) - printed) ** 2 for _, p, m, schedule, printed in rows)

    best, steps = _START.copy(), _STEPS.copy()
    least = miss(best)
    for _ in range(_ROUNDS):
        improved = False
        for index in range(len(best)):
            for sign in (1.0, -1.0):
                tried = best.copy()
                tried[index] += sign * steps[index]
                value = miss(tried)
                if value < least:
                    best, least, improved = tried, value, True
                    break
        if not improved:
            steps = steps / 2.0
    return best
