"""Cases of any kind to iteration time and memory: equal pools in one go, mixed pools stage by stage.

In a mixed case every stage runs on its pool (`stage_pools`; pools fill stages in their order otherwise), and the
pipeline is stepped through. Hops and
gradient rings run at the slowest pool's rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.model.training import TrainingCase
from tuner.training.columns import Array, columns, stage_layers
from tuner.training.constants import Constants
from tuner.training.iteration import iteration, stage_parts
from tuner.training.memory import Waterfall, memory
from tuner.training.schedules import pipeline_time
from tuner.training.simulate import Stage, fixed_order, simulate

_MOST_PASSES = 50_000  # of a simulated mixed case: about a tenth of a second


@dataclass(frozen=True, slots=True)
class Times:
    """Per case: seconds of an iteration, idle share of the pipeline, seconds of traffic that nothing hides."""

    seconds: Array
    bubble: Array
    exposed_comm_s: Array


def times(cases: Sequence[TrainingCase], constants: Constants) -> Times:
    """Iteration times in the order of the cases."""
    found = Times(*(np.zeros(len(cases)) for _ in range(3)))
    plain = [index for index, case in enumerate(cases) if len(set(stage_pools(case))) == 1]
    if plain:
        rows = [(cases[index], stage_pools(cases[index])[0]) for index in plain]
        result = iteration(columns(rows, tuple(constants.accelerators)), constants)
        found.seconds[plain] = result.seconds
        found.bubble[plain] = result.bubble
        found.exposed_comm_s[plain] = result.exposed_comm_s
    for index in set(range(len(cases))) - set(plain):
        found.seconds[index], found.bubble[index], found.exposed_comm_s[index] = _mixed(cases[index], constants)
    return found


def waterfall(case: TrainingCase, constants: Constants) -> Waterfall:
    """Bytes of every stage of one case."""
    return memory(columns([(case, 0)], tuple(constants.accelerators)), constants, case.plan.pp)


def stage_pools(case: TrainingCase) -> tuple[int, ...]:
    """The pool of every stage."""
    if case.stage_pools:
        return case.stage_pools
    stages, ranks = case.plan.pp, case.plan.ranks // case.plan.pp
    places: list[int] = []
    for index, pool in enumerate(case.pools):
        places += [index] * (pool.gpus // ranks)
    places += [len(case.pools) - 1] * stages
    return tuple(places[:stages])


def _mixed(case: TrainingCase, constants: Constants) -> tuple[float, float, float]:
    pools = stage_pools(case)
    names = sorted(set(pools))
    c = columns([(case, pool) for pool in names], tuple(constants.accelerators))
    parts = stage_parts(c, constants)
    which = np.array([names.index(pool) for pool in pools])
    pp = case.plan.pp
    first, most, last = stage_layers(case)
    layers = np.array(case.plan.layers_per_stage or [first, *[most] * (pp - 2), last][:pp], dtype=np.float64)
    forward, backward = parts.layer.forward[which] * layers, parts.layer.backward[which] * layers
    forward[-1] += parts.output_forward[which[-1]]
    backward[-1] += parts.output_backward[which[-1]]
    forward[0] += parts.embedding[which[0]]
    busy = forward + backward
    hop = float(parts.hop.max())
    plan = case.plan
    whole = _simulated(case, forward, backward, hop)
    if whole is None:
        slowest, one = int(np.argmax(busy)), np.ones(1)
        weight = parts.layer.weight[which[slowest]] * layers[slowest]
        whole = float(pipeline_time(
            c.schedule[:1], c.pp[:1], c.micro_batches[:1], c.vpp[:1], busy.sum() * one, busy[slowest] * one,
            weight * one, hop * one, c.overlap_pp[:1],
        )[0])  # fmt: skip
    tail = float(parts.gradients.max() + parts.optimizer.max())
    m = plan.micro_batches
    exposed = float((parts.layer.exposed[which] * layers).max() * m + 2.0 * m * hop + parts.gradients.max())
    return whole + tail, 1.0 - m * float(busy.sum()) / pp / whole, exposed


def _simulated(case: TrainingCase, forward: Array, backward: Array, hop: float) -> float | None:
    """Exact time of schedules with a fixed order, where it is short enough to step through."""
    plan = case.plan
    passes = 2 * plan.pp * plan.micro_batches * plan.vpp
    if plan.schedule not in ("gpipe", "1f1b", "interleaved") or passes > _MOST_PASSES:
        return None
    stages = [Stage(float(go), float(back), 0.0) for go, back in zip(forward, backward, strict=True)]
    order = fixed_order(plan.schedule, plan.pp, plan.micro_batches, plan.vpp)
    return simulate(order, stages, 0.0 if plan.overlap_pp else hop, plan.vpp).seconds
