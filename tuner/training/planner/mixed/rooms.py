"""How many layers fit on a stage, for any length of pipeline and any place in it, from a few totals of each cell.

Bytes of a stage grow linearly with its layers and with the micro-batches in flight there, so a stage's need is put
together from what short pipelines need.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tuner.training.columns import SCHEDULE_CODE, Array
from tuner.training.constants import Constants
from tuner.training.memory import stage_totals
from tuner.training.planner.mixed.cells import Table, pool_rows, shaped
from tuner.training.planner.question import PlanQuestion
from tuner.training.schedules import in_flight
from tuner.training.staged import taken, with_layers

_PLAY_BYTES = 1.0  # sums of the same numbers in another order must not decide


@dataclass(frozen=True, slots=True)
class Rooms:
    """Bytes per cell. Of a layer: its states, and its activations of one micro-batch. Beside layers: an inner stage, a
    last one, a first one and what grows with the micro-batches in flight there, a stage that is both."""

    states: Array
    activations: Array
    inner: Array
    last: Array
    first: Array
    first_in_flight: Array
    only: Array
    micro_batches: Array

    def some(self, which: Any) -> Rooms:
        """Of some cells."""
        return Rooms(*(getattr(self, item.name)[which] for item in fields(self)))

    def layers(self, p: int, virtual: Table, limits: Array, most: int) -> Table:
        """Layers that fit on every stage of a pipeline of p stages on every pool, shape (cells, p, pools), in whole
        chunks."""
        v, m = virtual.astype(np.float64), self.micro_batches
        code = np.where(virtual > 1, SCHEDULE_CODE["interleaved"], SCHEDULE_CODE["1f1b"])
        flight = in_flight(code, np.full(len(v), float(p)), m, v, np.arange(p, dtype=np.float64))
        beside = np.repeat(self.inner[:, None], p, axis=1)
        beside[:, -1] = self.last
        beside[:, 0] = self.only if p == 1 else self.first + self.first_in_flight * flight[:, 0]
        each = self.states[:, None] + flight * self.activations[:, None]
        found = np.floor((limits - _PLAY_BYTES - beside[:, :, None]) / each[:, :, None])
        whole = np.clip(found, 0, most).astype(np.int64)
        return np.asarray(whole // virtual[:, None, None] * virtual[:, None, None])

    def reach(self, p: Table, virtual: int, limits: Array, most: int) -> Table:
        """Layers that a stage of a pipeline of p stages (columns) may hold on each pool where it holds the fewest
        micro-batches, shape (cells, lengths, pools): the last place, without ends."""
        least = np.ones(len(p)) if virtual == 1 else p - (p - 1.0) / virtual
        flight = np.minimum(self.micro_batches[:, None], least)
        each = self.states[:, None] + flight * self.activations[:, None]
        found = np.floor((limits - self.inner[:, None])[:, None, :] / each[:, :, None])
        return np.asarray(np.clip(found, 0, most).astype(np.int64) // virtual * virtual)

    def mean_layers(self, limits: Array, stages: Table, most: int) -> Array:
        """Layers that the stages of each pool hold at most, on average over all of them, shape (cells, pools): every
        pool at the end of the pipeline, under 1F1B (chunks hold more), without ends."""
        total, most_stages = np.zeros(stages.shape), stages.max(axis=1)
        for place in range(1, int(min(stages.max(initial=0), most)) + 1):
            live = np.flatnonzero(most_stages >= place)
            each = self.states[live] + np.minimum(self.micro_batches[live], place) * self.activations[live]
            found = np.clip(np.floor((limits - self.inner[live, None]) / each[:, None]), 0, most)
            total[live] += np.where(stages[live] >= place, found, 0.0)
        return total / np.maximum(stages, 1)

    def most_in_all(self, limits: Array, most: int, lengths: int) -> Array:
        """Layers that no pipeline of 1, 2, ... stages exceeds, shape (cells, lengths): every stage on the pool with the
        most memory."""
        flight = np.minimum(self.micro_batches[:, None], np.arange(1.0, lengths + 1.0))
        each = self.states[:, None] + flight * self.activations[:, None]
        found = np.floor((limits.max() - self.inner[:, None]) / each)
        return np.asarray(np.cumsum(np.clip(found, 0, most), axis=1))


def rooms(question: PlanQuestion, table: Table, constants: Constants) -> Rooms:
    """Of every cell."""
    one = taken(pool_rows(question, table, constants), slice(None, None, len(question.case.pools)))
    count = np.ones(len(one))

    def totals(p: int, layers: float) -> Array:
        return stage_totals(with_layers(shaped(one, p, 1), layers * count), constants, p)

    alone, two, three = totals(1, 1.0), totals(2, 1.0), totals(3, 1.0)
    each = totals(3, 2.0) - three  # of a layer with min(m, 3), min(m, 2) and one micro-batch in flight
    m = one.micro_batches
    activations = np.where(m > 1, each[:, 1] - each[:, 2], 0.0)  # more than one are never in flight otherwise
    states = each[:, 2] - activations
    # The first stage of two holds min(m, 2), that of three min(m, 3) micro-batches.
    more = np.minimum(m, 3.0) - np.minimum(m, 2.0)
    grown = np.where(more > 0, three[:, 0] - each[:, 0] - (two[:, 0] - each[:, 1]), 0.0)
    return Rooms(
        states=states,
        activations=activations,
        inner=three[:, 1] - each[:, 1],
        last=three[:, 2] - each[:, 2],
        first=two[:, 0] - each[:, 1] - np.minimum(m, 2.0) * grown,
        first_in_flight=grown,
        only=alone[:, 0] - each[:, 2],
        micro_batches=m,
    )
