"""What a cached pod weighs and what listing it costs, in a process of its own with 20,000 pods of 6.8 KB JSON."""

from __future__ import annotations

from tests.perf.informer_runs import informer_run
from tests.perf.report import Emit, from_samples

_PODS = 20_000
_REPEATS = 3


def run(emit: Emit) -> None:
    reports = [informer_run(_PODS) for _ in range(_REPEATS)]
    weights = [report["rss_bytes"] / _PODS for report in reports]
    costs = [report["list_cpu_s"] / _PODS * 1e6 for report in reports]
    emit(from_samples("cache", "bytes_per_pod", weights, "bytes", 3_000, "lower"))
    emit(from_samples("cache", "list_us_per_object", costs, "us", 20, "lower"))
