"""MODIFIED events of 6.8 KB from the socket through decode, store with two indexes, handler and queue, per CPU second."""

from __future__ import annotations

from tests.perf.informer_runs import informer_run
from tests.perf.report import Emit, from_samples

_PODS = 3_000
_EVENTS = 40_000
_REPEATS = 3


def run(emit: Emit) -> None:
    rates = []
    for _ in range(_REPEATS):
        report = informer_run(_PODS, _EVENTS)
        rates.append(_EVENTS / report["event_cpu_s"])
    emit(from_samples("watch", "events_per_s", rates, "1/s", 50_000, "higher"))
