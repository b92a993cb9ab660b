"""Records the runs that `bench_validity` resamples: `python -m tests.perf.validity_record FILE [MINUTES]`.

One configuration of the embedded engine, each run in a fresh process, one after the other, with requests of its own.
Every run is kept, believed or not, with what others took of the machine meanwhile; run it at a quiet moment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from controlplane.model.plans import Lengths, Workload
from controlplane.model.tuning import LeasedTrial, Objective, TrialPurpose
from controlplane.model.tuning_job import EngineTarget, Measuring, TuningSpec
from tests.perf.bench_engine import ENGINE
from tests.perf.quiet import wait_for_quiet
from tuner.measure.engine.launch import embedded
from tuner.measure.runner import MeasuringRunner

KEPT = ("output_tokens_per_s", "requests_per_s", "ttft_p50_ms", "tpot_p50_ms", "e2e_p50_ms", "engine_cpu_s", "steps", "occupancy", "others_cpu_pct")  # fmt: skip
REQUESTS = 48
QUIET_PCT, PATIENCE_S = 20.0, 10.0


def spec_for(model: Path) -> TuningSpec:
    """Workload A of the embedded engine: prompts of 256 tokens, answers of 32, 8 clients."""
    return TuningSpec(
        target=EngineTarget(engine="openvino", model=str(model)),
        objectives=[Objective(metric="output_tokens_per_s")],
        load=Workload(arrivals="closed", concurrency=8, input=Lengths(tokens=256), output=Lengths(tokens=32)),
        measuring=Measuring(requests=REQUESTS, warm_up_requests=8, timeout_s=120),
    )


def main() -> None:
    path, minutes = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 10.0
    made = subprocess.run([ENGINE / "make-venv.sh"], check=True, stdout=subprocess.PIPE, text=True)
    python = made.stdout.strip()
    runs: list[dict[str, object]] = []
    host = ""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.gguf"
        make = [python, "-m", "trimtab_engine.cli", "make-model", str(model)]
        subprocess.run(make, check=True, env={**os.environ, "PYTHONPATH": str(ENGINE)}, stdout=sys.stderr)
        runner = MeasuringRunner(
            Path(folder), {"openvino": embedded(python, str(ENGINE))}, others_pct_max=None, beside_live=True
        )
        until_s = time.monotonic() + minutes * 60
        begun_s = time.monotonic()
        while time.monotonic() < until_s:
            wait_for_quiet(QUIET_PCT, PATIENCE_S)
            leased = LeasedTrial(
                id="validity",
                job="validity",
                number=0,
                attempt=1,
                setting={},
                seed=len(runs),
                purpose=TrialPurpose.CONFIRM,
            )
            outcome = runner.run(leased, spec_for(model), stop=threading.Event())
            row: dict[str, object] = {"at_s": round(time.monotonic() - begun_s, 1), "verdict": outcome.verdict.value}
            if outcome.measurement is not None:
                host = outcome.measurement.host
                row |= {name: outcome.measurement.metrics[name] for name in KEPT}
            else:
                row["reason"] = outcome.reason[:300]
            runs.append(row)
            sys.stderr.write(f"{json.dumps(row)}\n")
            provenance = {
                "what": "embedded engine, default settings, 256 tokens in, 32 out, 8 clients, a fresh process per run",
                "requests": REQUESTS,
                "host": host,
                "recorded": time.strftime("%Y-%m-%d", time.gmtime()),
                "command": "python -m tests.perf.validity_record",
            }
            path.write_text(json.dumps({"provenance": provenance, "runs": runs}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
