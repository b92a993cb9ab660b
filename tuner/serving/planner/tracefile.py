"""A trace file as the traffic a plan is made for."""

from __future__ import annotations

from pathlib import Path

from controlplane.catalog import ModelShape
from controlplane.model.errors import InvalidSpec
from controlplane.model.plans import PlanRequest
from tuner.serving.planner.checks import check_context, check_tpot
from tuner.serving.planner.load import Draws, of_trace
from tuner.serving.replay.traces import read_trace

# Requests of a trace that a plan looks at: the replays of a search cost in proportion.
MOST_REQUESTS = 120_000


def draws_of_trace(request: PlanRequest, model: ModelShape, *, in_turns: bool = False) -> Draws:
    """The trace's own arrivals and lengths. Raises InvalidSpec for a file that cannot be read or planned for."""
    assert request.workload.trace is not None, "the request was validated"
    found = read_trace(Path(request.workload.trace), limit=MOST_REQUESTS)
    if len(found) < 2:
        raise InvalidSpec(
            "one request is no traffic", field="workload.trace", value=request.workload.trace, limit="2 or more"
        )
    longest = int((found.isl + found.osl).argmax())
    check_context(model, int(found.isl[longest]), int(found.osl[longest]), field="workload.trace")
    check_tpot(request, int(found.osl.max()))
    return of_trace(found.arrival_s, found.isl, found.osl, request.seed, in_turns=in_turns)
