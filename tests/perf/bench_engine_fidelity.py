"""How well a replay predicts the embedded engine on this machine: 12 cells (settings x load), after 4 calibration runs.

The replay has the engine's admission rules and a step table fitted to the four calibration runs, each under another
load than any cell. Every cell runs twice, once in each half of its engine's life; the difference of the two runs is
the A/A error, and the replay's error is the mean of its distances to both. Engine and client share this machine's
cores, with whatever else runs there: a run waits for a quiet moment, and one that others disturbed is repeated. The
client's own share is part of every run, and of what the table is fitted to.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.perf.bench_engine import ENGINE, child_of, start_server
from tests.perf.fidelity_cells import GROUPS, REQUESTS, Group, Load, asked, every_length, replayed
from tests.perf.fidelity_load import Asked, drive
from tests.perf.quiet import Others, quietest, wait_for_quiet
from tests.perf.report import Emit, from_samples
from tuner.serving.calibration.host_engine import HostFit, fit
from tuner.serving.calibration.host_streams import Interval, Stream, intervals_of
from tuner.serving.replay.fleet import Fleet, Replica
from tuner.serving.replay.rules import rules_with_knobs
from tuner.serving.replay.run import simulate

FIGURES = ("ttft_p50", "ttft_p95", "tpot_p50")
LIMIT_PCT = 15.0
TIMES_AA = 1.5
# Share of the cores that others may take: before a run begins, and during one that is not repeated.
QUIET_PCT = 10.0
ATTEMPTS = int(os.environ.get("FIDELITY_ATTEMPTS", "4"))
PATIENCE_S = float(os.environ.get("FIDELITY_PATIENCE_S", "20"))
CONTEXT_TOKENS = 4096
LONGEST_WARM_UP = 512  # tokens of an iteration; more come together only where prompts run apart


@dataclass(slots=True)
class Cell:
    """`runs`: the figures of both real runs, ms."""

    group: Group
    load: Load
    requests: list[Asked]
    runs: list[dict[str, float]]

    @property
    def name(self) -> str:
        return f"{self.group.knobs.name} {self.load.name}"


def figures_of(ttft_ms: Sequence[float], tpot_ms: Sequence[float]) -> dict[str, float]:
    """The three figures of one run, ms."""
    return {
        "ttft_p50": float(np.percentile(ttft_ms, 50)),
        "ttft_p95": float(np.percentile(ttft_ms, 95)),
        "tpot_p50": float(np.percentile(tpot_ms, 50)),
    }


def seen(streams: Sequence[Stream]) -> dict[str, float]:
    """The figures a client measured."""
    return figures_of(
        [(one.token_s[0] - one.issued_s) * 1e3 for one in streams],
        [(one.token_s[-1] - one.token_s[0]) * 1e3 / (len(one.token_s) - 1) for one in streams],
    )


def predicted(cell: Cell, fitted: HostFit) -> dict[str, float]:
    """The figures of the replay."""
    rules = rules_with_knobs("openvino", cell.group.knobs.fields, context_tokens=CONTEXT_TOKENS)
    replica = Replica(table=fitted.table, rules=rules, request_ms=fitted.request_ms)
    result = simulate(Fleet(replicas=(replica,)), replayed(cell.load, cell.requests))
    return figures_of(result.ttft_ms.tolist(), result.tpot_ms.tolist())


def _run(pid: int, port: int, load: Load, requests: list[Asked], what: str) -> tuple[list[Stream], float]:
    """Streams and requests per second of the least disturbed of a few runs."""

    def once() -> tuple[tuple[list[Stream], float], float]:
        wait_for_quiet(QUIET_PCT, PATIENCE_S)
        others, started_s = Others((pid, child_of(pid), os.getpid())), time.perf_counter()
        streams = asyncio.run(drive(port, requests, load.clients))
        return (streams, len(requests) / (time.perf_counter() - started_s)), others.share_pct()

    (streams, rate_per_s), others_pct = quietest(once, QUIET_PCT, ATTEMPTS)
    sys.stderr.write(f"{what}: {rate_per_s:.1f} requests/s, others took {others_pct:.0f} % of the cores\n")
    return streams, rate_per_s


def measure(group: Group, pid: int, port: int, seed: int) -> tuple[list[Interval], list[Cell]]:
    """The calibration run, then the cells forwards and backwards."""
    rules = rules_with_knobs("openvino", group.knobs.fields, context_tokens=CONTEXT_TOKENS)
    requests = asked(group.calibration, seed)
    # The first iteration of each size costs about 4 ms more (the CPU plugin prepares its kernels for that shape); an
    # engine that has served for an hour has met them all.
    asyncio.run(drive(port, every_length(min(rules.token_budget, LONGEST_WARM_UP)), 1))
    streams, rate_per_s = _run(pid, port, group.calibration, requests, f"{group.knobs.name} calibration")
    cells = [
        Cell(group, load, asked(load, seed + 1 + number, rate_per_s), []) for number, load in enumerate(group.cells)
    ]
    for cell in (*cells, *reversed(cells)):
        found, _ = _run(pid, port, cell.load, cell.requests, cell.name)
        cell.runs.append(seen(found))
    return intervals_of(streams, rules), cells


def _engine(stack: ExitStack) -> tuple[str, dict[str, str], Path]:
    venv = subprocess.run([ENGINE / "make-venv.sh"], check=True, stdout=subprocess.PIPE, text=True)
    python = venv.stdout.strip()
    env = {**os.environ, "PYTHONPATH": f"{ENGINE}"}
    env.pop("TRIMTAB_API_KEY", None)
    model = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model.gguf"
    subprocess.run([python, "-m", "trimtab_engine.cli", "make-model", model], check=True, env=env, stdout=sys.stderr)
    return python, env, model


def run(emit: Emit) -> None:
    """Emit the three errors beside their A/A errors."""
    intervals: list[Interval] = []
    cells: list[Cell] = []
    with ExitStack() as stack:
        python, env, model = _engine(stack)
        for number, group in enumerate(GROUPS):
            with ExitStack() as server:
                pid, port, _ = start_server(server, python, env, model, group.knobs.flags)
                found, measured = measure(group, pid, port, 100 * (number + 1))
            intervals += found
            cells += measured
    fitted = fit(intervals, source=f"4 runs of {REQUESTS} requests on this machine")
    sys.stderr.write(
        f"fit: {fitted.intervals} intervals, median error {fitted.error_pct:.1f} %, request {fitted.request_ms:.2f} ms\n"
    )
    errors: dict[str, list[float]] = {figure: [] for figure in FIGURES}
    noise: dict[str, list[float]] = {figure: [] for figure in FIGURES}
    for cell in cells:
        said = predicted(cell, fitted)
        for figure in FIGURES:
            real = [run[figure] for run in cell.runs]
            errors[figure].append(statistics.mean(abs(said[figure] - value) / value for value in real) * 100)
            noise[figure].append(abs(real[0] - real[1]) / statistics.mean(real) * 100)
        shown = "  ".join(
            f"{figure} {said[figure]:.1f} for {cell.runs[0][figure]:.1f}, {cell.runs[1][figure]:.1f}"
            for figure in FIGURES
        )
        sys.stderr.write(f"{cell.name}: {shown} ms\n")
    for figure in FIGURES:
        target = max(LIMIT_PCT, TIMES_AA * statistics.median(noise[figure]))
        emit(from_samples("engine-fidelity", f"{figure}_err_pct", errors[figure], "%", target, "lower"))
        emit(from_samples("engine-fidelity", f"{figure}_aa_pct", noise[figure], "%", None, "lower"))
