"""Cases of any kind to iteration time and memory: one pool in one go, several pools stage by stage.

Where a case has several pools, every stage runs on its own (`seats`) and the pipeline is stepped through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from controlplane.model.training import TrainingCase
from tuner.training.columns import Array, columns, stage_layers
from tuner.training.constants import Constants
from tuner.training.iteration import iteration
from tuner.training.memory import Waterfall, memory
from tuner.training.networks import across_bytes_per_s, nic_class
from tuner.training.seats import stage_pools
from tuner.training.staged import Staged, StagedTimes, staged_times, with_layers


@dataclass(frozen=True, slots=True)
class Times:
    """Per case: seconds of an iteration, idle share of the pipeline, seconds of traffic that nothing hides, seconds that
    a device computes on average."""

    seconds: Array
    bubble: Array
    exposed_comm_s: Array
    computing_s: Array


def times(cases: Sequence[TrainingCase], constants: Constants) -> Times:
    """Iteration times in the order of the cases."""
    found = Times(*(np.zeros(len(cases)) for _ in range(4)))
    plain = [index for index, case in enumerate(cases) if len(case.pools) == 1]
    if plain:
        rows = [(cases[index], 0) for index in plain]
        result = iteration(columns(rows, tuple(constants.accelerators)), constants)
        found.seconds[plain] = result.seconds
        found.bubble[plain] = result.bubble
        found.exposed_comm_s[plain] = result.exposed_comm_s
        found.computing_s[plain] = result.computing_s
    for index in set(range(len(cases))) - set(plain):
        mixed = mixed_times(cases[index], constants)
        found.seconds[index], found.bubble[index] = mixed.seconds[0], mixed.bubble[0]
        found.exposed_comm_s[index], found.computing_s[index] = mixed.exposed_comm_s[0], mixed.computing_s[0]
    return found


def mixed_times(case: TrainingCase, constants: Constants) -> StagedTimes:
    """One case stage by stage: arrays of one."""
    plan, pools = case.plan, stage_pools(case)
    rows = columns([(case, pool) for pool in pools], tuple(constants.accelerators))
    classes = [nic_class(pool) for pool in case.pools]
    known = sorted(set(classes))
    staged = Staged(
        rows=rows,
        pool=np.array([pools]),
        nic=np.array([[known.index(classes[pool]) for pool in pools]]),
        across=np.array([[across_bytes_per_s(case.pools[pool], constants) for pool in pools]]),
        layers=np.array([layer_counts(case)], dtype=np.float64),
        schedule=plan.schedule,
        micro_batches=plan.micro_batches,
        virtual=plan.vpp,
        overlap=plan.overlap_pp,
    )
    return staged_times(staged, constants)


def layer_counts(case: TrainingCase) -> tuple[int, ...]:
    """Layers of every stage."""
    first, most, last = stage_layers(case)
    pp = case.plan.pp
    return case.plan.layers_per_stage or (first, *[most] * (pp - 2), last)[:pp]


def waterfall(case: TrainingCase, constants: Constants) -> Waterfall:
    """Bytes of every stage of one case."""
    counts, pp = layer_counts(case), case.plan.pp
    distinct = sorted(set(counts))
    rows = columns([(case, 0)] * len(distinct), tuple(constants.accelerators))
    found = memory(with_layers(rows, np.array(distinct, dtype=np.float64)), constants, pp)
    which = [distinct.index(count) for count in counts]
    return Waterfall(*(getattr(found, item.name)[which, range(pp)][None, :] for item in fields(Waterfall)))
