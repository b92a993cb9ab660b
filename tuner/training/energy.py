"""Energy of one iteration by phase: compute, exposed communication, bubble. Always a model, never a measurement.

Power comes from the datasheet's TDP, the idle share and the utilisation; what nobody published is spanned by low and
high (`data/energy.json`). A cap lowers the clock, the clock stretches the compute phase. Unknown TDP: None, never 0 J.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from controlplane.catalog import Accelerator
from controlplane.model.errors import InvalidSpec
from tuner.serving.energy import clock_share, phase_power_w

Case = Literal["low", "mid", "high"]
CASES: tuple[Case, ...] = ("low", "mid", "high")
PHASES = ("compute", "communication", "bubble")

_DATA = Path(__file__).parent / "data" / "energy.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPhases:
    """One pool's accelerators over an iteration: seconds per accelerator in each phase, with any cap already in them.
    `utilisation`: share of the dense peak reached while computing, as it would be without a cap."""

    accelerator: Accelerator
    accelerators: int
    compute_s: float
    communication_s: float
    bubble_s: float
    utilisation: float
    cap_w: float | None = None

    def __post_init__(self) -> None:
        if self.accelerators < 1:
            raise InvalidSpec("below 1", field="accelerators", value=self.accelerators, limit="1 or more")
        for name in ("compute_s", "communication_s", "bubble_s"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0.0:
                raise InvalidSpec("not a time", field=name, value=value, limit="a finite number, 0 or more")
        _check_utilisation(self.utilisation)


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationEnergy:
    """Joules of all accelerators, PUE included; `phases_joules` splits them. Low and high span the unknown shares,
    not the error of the step time."""

    joules: float
    joules_low: float
    joules_high: float
    mean_power_w: float
    phases_joules: dict[str, float]
    pue: float
    basis: Literal["model"] = "model"
    notes: tuple[str, ...] = ("accelerators times PUE: no host, fans or switches of the nodes",)


def compute_power_w(
    accelerator: Accelerator, utilisation: float, *, cap_w: float | None = None, case: Case = "mid"
) -> float | None:
    """Mean power of one accelerator while it computes. None where its TDP is unknown. Raises InvalidSpec."""
    share = _compute_share(accelerator, utilisation, case)
    return None if share is None else _capped(accelerator, share, cap_w)


def slowdown_under_cap(
    accelerator: Accelerator, utilisation: float, cap_w: float | None, *, case: Case = "mid"
) -> float | None:
    """Compute time under a power cap over that without, at least 1: it follows the clock in full, so an upper bound
    where memory-bound kernels take a part. None where the TDP is unknown. Raises InvalidSpec for a cap it cannot keep."""
    _check_utilisation(utilisation)
    if cap_w is None:
        return 1.0
    share = _compute_share(accelerator, utilisation, case)
    clock = None if share is None else clock_share(accelerator, cap_w, share)
    return None if clock is None else 1.0 / clock


def under_cap(
    pools: Sequence[PoolPhases], caps_w: Sequence[float | None], *, case: Case = "mid"
) -> list[PoolPhases] | None:
    """The same iteration with caps set, from times without: every pool computes at its own clock, the iteration grows
    with the pool that grows most, and the others wait for it. None where a TDP is unknown. Raises InvalidSpec."""
    if len(caps_w) != len(pools):
        raise InvalidSpec("one cap per pool", field="caps_w", value=len(caps_w), limit=str(len(pools)))
    slower = []
    for pool, cap_w in zip(pools, caps_w, strict=True):
        factor = slowdown_under_cap(pool.accelerator, pool.utilisation, cap_w, case=case)
        if factor is None:
            return None
        slower.append(factor)
    # Bubbles are other stages' work: they stretch with the slowest pool.
    most = max((_span(p) - p.communication_s) * f + p.communication_s for p, f in zip(pools, slower, strict=True))
    return [
        replace(
            pool,
            compute_s=pool.compute_s * factor,
            bubble_s=max(0.0, most - pool.communication_s - pool.compute_s * factor),
            cap_w=cap_w,
        )
        for pool, cap_w, factor in zip(pools, caps_w, slower, strict=True)
    ]


def iteration_energy(pools: Sequence[PoolPhases], *, pue: float = 1.0) -> IterationEnergy | None:
    """Energy of one iteration over all pools. `pue`: power usage effectiveness of the site. None where a pool's TDP is
    unknown. Raises InvalidSpec."""
    if not pools:
        raise InvalidSpec("no pool", field="pools", value=[], limit="at least one")
    if not 1.0 <= pue <= 5.0:
        raise InvalidSpec("out of range", field="pue", value=pue, limit="1 to 5")
    totals: dict[Case, dict[str, float]] = {case: dict.fromkeys(PHASES, 0.0) for case in CASES}
    for pool in pools:
        for case in CASES:
            powers = _powers(pool, case)
            if powers is None:
                return None
            seconds = (pool.compute_s, pool.communication_s, pool.bubble_s)
            for phase, watts, spent in zip(PHASES, powers, seconds, strict=True):
                totals[case][phase] += watts * spent * pool.accelerators * pue
    span = max(_span(pool) for pool in pools)
    if span <= 0.0:
        raise InvalidSpec("no time to account for", field="pools", value=span, limit="above 0 s")
    joules = {case: math.fsum(parts.values()) for case, parts in totals.items()}
    return IterationEnergy(
        joules=joules["mid"],
        joules_low=joules["low"],
        joules_high=joules["high"],
        mean_power_w=joules["mid"] / span,
        phases_joules=totals["mid"],
        pue=pue,
    )


def _powers(pool: PoolPhases, case: Case) -> tuple[float, float, float] | None:
    accelerator = pool.accelerator
    share, idle = _compute_share(accelerator, pool.utilisation, case), _idle_share(accelerator)
    if share is None or idle is None:
        return None
    facts = _facts()
    waiting = max(idle, float(facts["bubble_share"]["high"])) if case == "high" else idle
    talking = max(idle, float(facts["communication_share"][case]))
    found = [_capped(accelerator, each, pool.cap_w) for each in (share, talking, waiting)]
    return found[0], found[1], found[2]


def _compute_share(accelerator: Accelerator, utilisation: float, case: Case) -> float | None:
    _check_utilisation(utilisation)
    idle = _idle_share(accelerator)
    if idle is None:
        return None
    return idle + (1.0 - idle) * float(utilisation ** float(_facts()["compute_exponent"][case]))


def _idle_share(accelerator: Accelerator) -> float | None:
    idle_w = phase_power_w(accelerator, "idle")
    return None if idle_w is None or accelerator.tdp_w is None else idle_w / accelerator.tdp_w


def _capped(accelerator: Accelerator, share: float, cap_w: float | None) -> float:
    """Watts; a clock at its floor may draw more than the cap asks for, which the check of the cap rules out."""
    assert accelerator.tdp_w is not None
    watts = share * accelerator.tdp_w
    if cap_w is None:
        return watts
    clock_share(accelerator, cap_w, share)  # refuses caps that the accelerator cannot keep
    return min(watts, cap_w)


def _span(pool: PoolPhases) -> float:
    return pool.compute_s + pool.communication_s + pool.bubble_s


def _check_utilisation(utilisation: float) -> None:
    if not 0.0 <= utilisation <= 1.0:
        raise InvalidSpec("not a share", field="utilisation", value=utilisation, limit="0 to 1")


@cache
def _facts() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(_DATA.read_bytes())
    return loaded
