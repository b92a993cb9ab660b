"""Records the runs that `bench_validity` resamples: `python -m tests.perf.validity_record FILE [MINUTES]`.

Two processes of the embedded engine with one configuration stand side by side and are loaded in turn, ABBA, with the same
requests within a pair: two measurements of one thing, seconds apart, so that what others do to the machine meets both.
Every few pairs both processes are fresh ones. All runs are kept, with what others took of the machine meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from controlplane.catalog import load
from controlplane.model.plans import Lengths, Workload
from tests.perf.bench_engine import ENGINE
from tuner.measure.crosscheck import Bands
from tuner.measure.engine.launch import HOST, SERVED_NAME, embedded
from tuner.measure.engine.process import GuardedProcess
from tuner.measure.engine.serving import NotServing, serving
from tuner.measure.loadgen.job import LoadJob
from tuner.measure.loadgen.plan import rows_of
from tuner.measure.machine import fingerprint
from tuner.measure.one_run import one_run

KEPT = ("output_tokens_per_s", "ttft_p50_ms", "tpot_p50_ms", "e2e_p50_ms", "engine_cpu_s", "steps", "occupancy", "others_cpu_pct")  # fmt: skip
CLIENTS = 8
REQUESTS = 16
PAIRS_OF_A_PROCESS = 12
START_S, RUN_S = 120.0, 60.0
# Workload A of the embedded engine's measurements.
LOAD = Workload(arrivals="closed", concurrency=CLIENTS, input=Lengths(tokens=256), output=Lengths(tokens=32))
OPENVINO = load().engine("openvino")

Row = dict[str, object]


def slice_of(process: GuardedProcess, port: int, python: str, seed: int) -> Row:
    """One run on a ready engine."""
    rows = rows_of(LOAD, REQUESTS, seed)
    job = LoadJob(HOST, port, SERVED_NAME, rows, clients=CLIENTS, seed=seed)
    try:
        run = one_run(
            process, OPENVINO, embedded(python, str(ENGINE)), job, None, bands=Bands(), others_pct_max=None,
            stop=threading.Event(), deadline_s=time.monotonic() + RUN_S,
        )  # fmt: skip
    except NotServing as found:
        return {"verdict": found.verdict.value, "reason": found.reason[:200]}
    figures = {name: run.metrics[name] for name in KEPT}
    return {"verdict": "ok", **{name: None if value is None else round(value, 3) for name, value in figures.items()}}


def some_pairs(python: str, model: Path, folder: Path, first: int) -> list[list[Row]]:
    """Pairs on two fresh processes: [run of A, run of B] each. The first slice of each process only warms it up."""
    launcher, out = embedded(python, str(ENGINE)), []
    with contextlib.ExitStack() as stack:
        arms = [
            stack.enter_context(
                serving(
                    OPENVINO, launcher, str(model), {}, {}, folder=folder, stop=threading.Event(),
                    deadline_s=time.monotonic() + START_S,
                )
            )
            for _ in range(2)
        ]  # fmt: skip
        for process, port in arms:
            slice_of(process, port, python, first)
        for number in range(first + 1, first + 1 + PAIRS_OF_A_PROCESS):
            pair: list[Row] = [{}, {}]
            for arm in (0, 1) if number % 2 else (1, 0):
                pair[arm] = slice_of(*arms[arm], python, number)
            out.append(pair)
    return out


def main() -> None:
    path, minutes = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 12.0
    made = subprocess.run([ENGINE / "make-venv.sh"], check=True, stdout=subprocess.PIPE, text=True)
    python = made.stdout.strip()
    pairs: list[list[Row]] = []
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model.gguf"
        make = [python, "-m", "trimtab_engine.cli", "make-model", str(model)]
        subprocess.run(make, check=True, env={**os.environ, "PYTHONPATH": str(ENGINE)}, stdout=sys.stderr)
        begun_s = time.monotonic()
        while time.monotonic() - begun_s < minutes * 60:
            pairs += some_pairs(python, model, Path(name), 2 * len(pairs))
            sys.stderr.write(f"{time.monotonic() - begun_s:.0f} s, {len(pairs)} pairs; {json.dumps(pairs[-1])}\n")
            provenance = {
                "what": "two processes of the embedded engine with default settings in turn (ABBA): 256 tokens in, 32 out, "
                f"closed loop of {CLIENTS} clients, {REQUESTS} requests a run; fresh processes every {PAIRS_OF_A_PROCESS} pairs",
                "host": fingerprint(),
                "recorded": time.strftime("%Y-%m-%d", time.gmtime()),
                "command": "python -m tests.perf.validity_record",
            }
            document = {"provenance": provenance, "pairs": pairs}
            path.write_text(
                json.dumps(document, separators=(",", ":")).replace("],[", "],\n[") + "\n", encoding="utf-8"
            )


if __name__ == "__main__":
    main()
