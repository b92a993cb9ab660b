"""The load generator itself, on a server that streams tokens on a clock (`controlplane.testing.fake_engine`).

The server shares this machine's cores with the generator, which makes the figures pessimistic.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from controlplane.model.plans import Lengths, Workload
from tests.perf.report import Emit, Figure, from_samples
from tuner.measure.loadgen.job import LoadJob, LoadResult
from tuner.measure.loadgen.plan import Rows, constant_rows, rows_of
from tuner.measure.loadgen.run import run_load

REPEATS = 3
RATES_PER_S = (20, 50, 100, 200)
SECONDS = 8
STALL_S = 2.0
STALL_RATE_PER_S = 100


@contextmanager
def server(*flags: str) -> Iterator[int]:
    argv = [sys.executable, "-m", "controlplane.testing.fake_engine", *flags]
    process = subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert process.stderr is not None
        yield int(process.stderr.readline().rsplit(":", 1)[1])
    finally:
        process.kill()
        process.communicate()


def drive(port: int, rows: Rows, seed: int) -> LoadResult:
    job = LoadJob("127.0.0.1", port, "m", rows, seed=seed)
    result = run_load(job, stop=threading.Event(), deadline_s=time.monotonic() + 300)
    failed = [sample.error for sample in result.samples if sample.error]
    if failed:
        raise RuntimeError(f"{len(failed)} requests failed: {failed[0]}")
    return result


def rate_error_pct(result: LoadResult) -> float:
    """How much longer or shorter the sending took than intended."""
    sent = [sample.sent_s for sample in result.samples if sample.sent_s is not None]
    intended = [sample.intended_s for sample in result.samples]
    return abs((max(sent) - min(sent)) / (max(intended) - min(intended)) - 1) * 100


def lateness_p99_ms(result: LoadResult) -> float:
    late = [sample.sent_s - sample.intended_s for sample in result.samples if sample.sent_s is not None]
    return float(np.percentile(late, 99)) * 1e3


def stall_seen_pct(port: int) -> float:
    """Seconds of waiting that a stall costs all requests together, as far as their TTFT shows them. Requests come at
    100/s whatever the server does, so a stall of S seconds costs 100 S^2 / 2 request-seconds."""
    result = drive(port, constant_rows(STALL_RATE_PER_S, int(STALL_RATE_PER_S * (STALL_S + 4)), 16, 2), 7)
    ttft_s = np.array([sample.first_s - sample.intended_s for sample in result.samples if sample.first_s is not None])
    ordinary_s = float(np.median(ttft_s[:50]))
    seen_s = float(np.maximum(ttft_s - ordinary_s, 0.0)[ttft_s > 4 * ordinary_s].sum())
    return seen_s / (STALL_RATE_PER_S * STALL_S**2 / 2) * 100


def run(emit: Emit) -> None:
    """Emit the figures of the load generator."""
    errors, late_ms, cpu_ms, stalls = [], [], [], []
    processes = 0
    with server("--interval", "0.005") as port:
        for repeat in range(REPEATS):
            for rate in RATES_PER_S:
                load = Workload(
                    arrivals="poisson", rate_per_second=rate, input=Lengths(tokens=64), output=Lengths(tokens=8)
                )
                for rows in (constant_rows(rate, rate * SECONDS, 64, 8), rows_of(load, rate * SECONDS, repeat)):
                    result = drive(port, rows, repeat)
                    errors.append(rate_error_pct(result))
                    if rate == max(RATES_PER_S):
                        late_ms.append(lateness_p99_ms(result))
            result = drive(port, constant_rows(20, 160, 64, 64), 100 + repeat)
            cpu_ms.append(result.cpu_s / len(result.samples) * 1e3)
            processes = result.processes
            sys.stderr.write(
                f"repeat {repeat}: {max(errors):.3f} %, {late_ms[-1]:.1f} ms late, {cpu_ms[-1]:.2f} ms CPU\n"
            )
    for _ in range(REPEATS):
        with server("--interval", "0.002", "--ttft", "0", "--stall-at", "2", "--stall-for", str(STALL_S)) as port:
            stalls.append(stall_seen_pct(port))
    bench = "loadgen"
    worst = max(errors)  # of all rates and repeats: a median would hide the one rate that fails
    emit(Figure(bench, "rate_error_pct", worst, "%", 1.0, "lower", len(errors), (min(errors), worst)))
    emit(from_samples(bench, "lateness_p99_ms", late_ms, "ms", None, "lower"))
    emit(from_samples(bench, "cpu_ms_per_request", cpu_ms, "ms", 4.0, "lower"))
    emit(from_samples(bench, "stall_seen_pct", stalls, "%", 99.0, "higher"))
    emit(Figure(bench, "processes", float(processes), "processes", None, "lower", 1))
