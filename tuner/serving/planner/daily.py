"""Replicas over a day: how many of the planned shape each hour needs, when a new one takes minutes to start.

The load is averaged over windows. A replica that is needed in a window must have been started before it, so at each
moment as many run as any window within the start-up time needs; they leave when the load does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from controlplane.model.errors import InvalidSpec, Unsupported
from controlplane.model.plans import ServingCandidate, ServingPlan
from tuner.serving.planner.load import Floats
from tuner.serving.replay.traces import read_trace

_WINDOW_S = 300.0
_LEAST_WINDOWS = 12  # shorter traces are looked at in finer windows
_MOST_WINDOWS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyStep:
    """From `start_s` on; `rate_per_s` is the largest of its windows."""

    start_s: float
    rate_per_s: float
    replicas: int
    accelerators: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyPlan:
    """`accelerator_hours` beside what the largest step would take all day. `late_share`: requests that would meet too
    few replicas if each were started only when its load is there."""

    steps: list[DailyStep]
    goodput_per_replica: float
    accelerator_hours: float
    accelerator_hours_fixed: float
    late_share: float
    message: str

    def as_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return asdict(self)


def daily_plan(plan: ServingPlan, trace: Path, *, startup_s: float) -> DailyPlan:
    """Replicas of the plan's winner over a trace. Raises Unsupported where nothing or several shapes won, InvalidSpec for
    a trace that cannot be read."""
    if not 0 <= startup_s <= 86_400:
        raise InvalidSpec("not a start-up time", field="startup_s", value=startup_s, limit="0 to 86400 s")
    best = _one_shape(plan)
    assert best.capacity is not None
    role = best.roles[0]
    goodput = best.capacity / role.replicas
    found = read_trace(trace)
    return over_day(
        found.arrival_s,
        goodput_per_replica=goodput,
        accelerators_per_replica=best.accelerators // role.replicas,
        startup_s=startup_s,
    )


def over_day(
    arrival_s: Floats, *, goodput_per_replica: float, accelerators_per_replica: int, startup_s: float
) -> DailyPlan:
    """The same from arrival times (sorted, the first at 0). Pure."""
    span_s = max(float(arrival_s[-1]), 1.0)
    window_s = min(_WINDOW_S, span_s / _LEAST_WINDOWS)
    count = int(np.ceil(span_s / window_s))
    if count > _MOST_WINDOWS:
        window_s, count = span_s / _MOST_WINDOWS, _MOST_WINDOWS
    index = np.minimum((arrival_s / window_s).astype(int), count - 1)
    rates = np.bincount(index, minlength=count) / window_s
    needed = np.maximum(np.ceil(rates / goodput_per_replica - 1e-9), 1).astype(int)
    ahead = int(np.ceil(startup_s / window_s))
    running = np.array([needed[i : i + ahead + 1].max() for i in range(count)])
    # Started when the load is there, a replica helps `ahead` windows later; the first ones run from the start.
    reactive = np.array([needed[max(0, i - ahead)] if i >= ahead else needed[0] for i in range(count)])
    short = np.maximum(rates - reactive * goodput_per_replica, 0.0)
    late = float(short.sum() / rates.sum()) if rates.sum() > 0 else 0.0
    hours = float(running.sum() * window_s / 3600 * accelerators_per_replica)
    fixed = float(running.max() * count * window_s / 3600 * accelerators_per_replica)
    steps: list[DailyStep] = []
    start = 0
    for i in range(1, count + 1):
        if i == count or running[i] != running[start]:
            steps.append(
                DailyStep(
                    start_s=start * window_s,
                    rate_per_s=float(rates[start:i].max()),
                    replicas=int(running[start]),
                    accelerators=int(running[start]) * accelerators_per_replica,
                )
            )
            start = i
    message = (
        f"{hours:,.1f} accelerator hours instead of {fixed:,.1f} with {int(running.max())} replicas all the time "
        f"({1 - hours / fixed:.0%} less); started only when the load is there, {late:.1%} of requests would meet too few "
        f"replicas for {startup_s:g} s at a time"
    )
    return DailyPlan(
        steps=steps,
        goodput_per_replica=goodput_per_replica,
        accelerator_hours=hours,
        accelerator_hours_fixed=fixed,
        late_share=late,
        message=message,
    )


def _one_shape(plan: ServingPlan) -> ServingCandidate:
    for candidate in plan.best:
        if len(candidate.roles) == 1 and candidate.capacity and plan.request.workload.arrivals != "closed":
            return candidate
    raise Unsupported(
        "a day needs a ranked deployment of one shape, planned for a rate",
        field="daily",
        hint="plan for a rate that one pool carries, without --disaggregated",
    )
