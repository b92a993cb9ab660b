"""Replay of the serving predictor, everything it knows switched on: KV blocks, preemption, prefix cache, chunks.

`*_iterations_per_s`: engine iterations per CPU second, packing and results included, warm. `r10k_s`, `r100k_s`: a
replay of so many requests, 128 clients, 1024/256 tokens. `oracle_gap_pct`: largest difference of a request's times from
the plain-Python oracle over the first 50 mixed cases of the tests. `first_call_s`: CPU time of the first replay of a
process whose machine code is on disk, the compiler's import not counted. The table figures are those of the step tables.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.perf.report import Emit, from_samples
from tests.unit.tuner.replay.cases import mixed_case, table
from tuner.serving.replay.fleet import Fleet, Replica
from tuner.serving.replay.reference import simulate_slowly
from tuner.serving.replay.requests import Requests, closed_loop, open_loop, poisson_times
from tuner.serving.replay.result import ReplayResult
from tuner.serving.replay.rules import default_rules
from tuner.serving.replay.run import simulate

REPEATS = 9
KV_BLOCKS = 164_933  # of 16 tokens: Llama-3.1-70B, TP 8, h200
CASES = 50
FIRST_CALL = """
import time, numba
from tuner.serving.replay.compile import warm_up
begin = time.process_time()
warm_up()
print(time.process_time() - begin)
"""


def lengths(isl: int, osl: int) -> dict[str, float]:
    return {"isl": isl, "osl": osl, "isl_range": 0.8, "osl_range": 0.8}


def run(emit: Emit) -> None:
    rules = default_rules("vllm")
    fleet = Fleet(replicas=(Replica(table=table(), rules=rules, kv_blocks=KV_BLOCKS, host_step_ms=0.5),))

    def rate(figure: str, requests: Requests, target: float) -> None:
        seconds, result = timed(lambda: simulate(fleet, requests))
        sys.stderr.write(f"{figure}: {result.iterations} iterations, KV peak {result.kv_fraction_peak:.3f}\n")
        samples = [result.iterations / s for s in seconds]
        emit(from_samples("replay", figure, samples, "1/s", target, "higher"))

    rate("c128_iterations_per_s", closed_loop(128, 10_000, **lengths(1024, 256)), 3e6)  # type: ignore[arg-type]
    rate("c8_long_iterations_per_s", closed_loop(8, 800, **lengths(1024, 8192)), 1e8)  # type: ignore[arg-type]
    poisson = open_loop(poisson_times(5.0, 10_000), **lengths(1024, 256))  # type: ignore[arg-type]
    rate("poisson_iterations_per_s", poisson, 1e7)
    for figure, count, target in (("r10k_s", 10_000, 0.02), ("r100k_s", 100_000, 0.2)):
        requests = closed_loop(128, count, **lengths(1024, 256))  # type: ignore[arg-type]
        seconds, _ = timed(lambda: simulate(fleet, requests))  # noqa: B023  (called at once)
        emit(from_samples("replay", figure, seconds, "s", target, "lower"))
    emit(from_samples("replay", "oracle_gap_pct", oracle_gaps(), "%", 1e-6, "lower"))
    first = [
        float(subprocess.run([sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    emit(from_samples("replay", "first_call_s", first, "s", 0.35, "lower"))
    if Path(__file__).with_name("step_tables.py").exists():
        from tests.perf import step_tables

        step_tables.figures(emit)


def timed(work: Callable[[], ReplayResult]) -> tuple[list[float], ReplayResult]:
    result = work()
    samples = []
    for _ in range(REPEATS):
        begin = time.process_time()
        result = work()
        samples.append(time.process_time() - begin)
    return samples, result


def oracle_gaps() -> list[float]:
    """The largest gap over all cases, in per cent: one sample, as it is a maximum."""
    worst = 0.0
    for number in range(CASES):
        fleet, requests, seed = mixed_case(number)
        oracle = simulate_slowly(fleet, requests, seed=seed)
        result = simulate(fleet, requests, seed=seed)
        for times, name in ((result.first_token_s, "first_s"), (result.done_s, "done_s")):
            wanted = np.array([np.nan if live.refused else getattr(live, name) for live in oracle.lives])
            if not (np.isnan(wanted) == np.isnan(times)).all():
                return [100.0]
            known = ~np.isnan(wanted)
            if known.any():
                worst = max(worst, float(np.max(np.abs(times[known] / wanted[known] - 1.0))) * 100.0)
    return [worst]
