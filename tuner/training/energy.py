"""Energy of one iteration by phase: compute, exposed communication, waiting. Always a model, never a measurement.

Power comes from the datasheet's TDP, the idle share and the utilisation; what nobody published is spanned by low and
high (`data/energy.json`). Unknown TDP: None, never 0 J.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from controlplane.catalog import Accelerator, load
from controlplane.model.errors import InvalidSpec
from controlplane.model.training import TrainingCase
from tuner.serving.energy import phase_power_w
from tuner.training.columns import clock_under_cap
from tuner.training.seats import stage_pools

Case = Literal["low", "mid", "high"]
CASES: tuple[Case, ...] = ("low", "mid", "high")

_DATA = Path(__file__).parent / "data" / "energy.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPhases:
    """One pool's accelerators over an iteration: seconds per accelerator in each phase, with any cap already in them.
    `utilisation`: share reached while computing of the dense peak at the clock that the cap leaves."""

    accelerator: Accelerator
    accelerators: int
    compute_s: float
    communication_s: float
    waiting_s: float
    utilisation: float
    cap_w: float | None = None

    def __post_init__(self) -> None:
        if self.accelerators < 1:
            raise InvalidSpec("below 1", field="accelerators", value=self.accelerators, limit="1 or more")
        for name in ("compute_s", "communication_s", "waiting_s"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0.0:
                raise InvalidSpec("not a time", field=name, value=value, limit="a finite number, 0 or more")
        if not 0.0 <= self.utilisation <= 1.0:
            raise InvalidSpec("not a share", field="utilisation", value=self.utilisation, limit="0 to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationEnergy:
    """Joules of all accelerators, without hosts, fans and switches. Low and high span the unknown shares, not the error
    of the step time."""

    joules: float
    low: float
    high: float


def iteration_energy(pools: Sequence[PoolPhases]) -> IterationEnergy | None:
    """Energy of one iteration over all pools. None where a pool's TDP is unknown."""
    totals = dict.fromkeys(CASES, 0.0)
    for pool in pools:
        for case in CASES:
            powers = _powers_w(pool, case)
            if powers is None:
                return None
            seconds = (pool.compute_s, pool.communication_s, pool.waiting_s)
            totals[case] += pool.accelerators * math.fsum(w * s for w, s in zip(powers, seconds, strict=True))
    return IterationEnergy(joules=totals["mid"], low=totals["low"], high=totals["high"])


def case_energy(
    case: TrainingCase, seconds: float, computing_s: float, exposed_s: float, hfu: float
) -> IterationEnergy | None:
    """Of a case whose devices compute, and wait for the network, so many of an iteration's seconds on average. `hfu`:
    share of the peaks without caps over the whole iteration. None where a pool's TDP is unknown."""
    computing = min(computing_s, seconds)
    talking = min(exposed_s, seconds - computing)
    known, each = load().accelerators, case.plan.ranks // case.plan.pp
    pools = []
    for index, stages in sorted(Counter(stage_pools(case)).items()):
        pool = case.pools[index]
        busy = hfu * seconds / max(computing * clock_under_cap(known[pool.gpu], pool.power_cap_w), 1e-12)
        pools.append(
            PoolPhases(
                accelerator=known[pool.gpu], accelerators=each * stages, compute_s=computing, communication_s=talking,
                waiting_s=seconds - computing - talking, utilisation=min(busy, 1.0), cap_w=pool.power_cap_w,
            )
        )  # fmt: skip
    return iteration_energy(pools)


def _powers_w(pool: PoolPhases, case: Case) -> tuple[float, float, float] | None:
    """Of one accelerator that computes, communicates, waits."""
    tdp_w, idle_w = pool.accelerator.tdp_w, phase_power_w(pool.accelerator, "idle")
    if tdp_w is None or idle_w is None:
        return None
    idle, facts = idle_w / tdp_w, _facts()
    busy = pool.utilisation ** float(facts["compute_exponent"][case])
    # As the step time has it: the whole clock goes down, and what exceeds idle falls with its cube.
    dynamic = clock_under_cap(pool.accelerator, pool.cap_w) ** 3
    computing = idle + (1.0 - idle) * busy * dynamic
    talking = max(idle, float(facts["communication_share"][case]))
    waiting = max(idle, float(facts["bubble_share"]["high"])) if case == "high" else idle
    most = tdp_w if pool.cap_w is None else min(pool.cap_w, tdp_w)
    return min(computing * tdp_w, most), min(talking * tdp_w, most), min(waiting * tdp_w, most)


@cache
def _facts() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(_DATA.read_bytes())
    return loaded
