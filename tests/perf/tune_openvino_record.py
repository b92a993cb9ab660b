"""Records the grid that `bench_tune_openvino` replays: `python -m tests.perf.tune_openvino_record FILE a|b [REPEATS]`.

Every setting of the grid is a trial as a tuning job measures it: a fresh engine process, one run, client and server
compared. Settings are measured once each in an order drawn from the repeat, then again: what the machine does over
minutes meets all of them. All runs of a repeat send the same requests. A run that is not believed is tried again, as a
job would; how much others took of the cores is kept and nothing is refused for it. Each request's times are kept, so the
file holds whatever limits are set. Started again on the same file, it goes on where it was.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from controlplane.catalog import load
from controlplane.model.tuning import LeasedTrial, Outcome, Setting, Verdict
from controlplane.tuning_embedded import launchers
from tests.perf.bench_engine import ENGINE
from tests.perf.tune_openvino import BENCHES, FIXED, Bench
from tuner.measure.definitions import tpot_s, ttft_s
from tuner.measure.loadgen.job import Sample
from tuner.measure.machine import fingerprint
from tuner.measure.runner import MeasuringRunner

KEPT = (
    "requests_per_s", "ttft_p50_ms", "ttft_p90_ms", "tpot_p50_ms", "tpot_p90_ms", "duration_s",
    "engine_cpu_s", "steps", "others_cpu_pct",
)  # fmt: skip
_FIELDS = [field.name for field in fields(Sample)]
REPEATS = 3
ATTEMPTS = 3

Row = dict[str, Any]


def order(bench: Bench, repeat: int) -> list[Setting]:
    """The cells of one repeat, shuffled by its number; in the first the default setting once more after every tenth:
    what the machine does meanwhile is seen in it."""
    cells = bench.cells()
    random.Random(f"{bench.name}-{repeat}").shuffle(cells)
    out: list[Setting] = []
    for place, cell in enumerate(cells):
        out += [cell, bench.default()] if repeat == 0 and place % 10 == 9 else [cell]
    return out


def searched(setting: Setting) -> Setting:
    """What differs between cells."""
    return {name: value for name, value in setting.items() if name not in FIXED}


def row_of(setting: Setting, repeat: int, outcome: Outcome, attempts: int, wall_s: float) -> Row:
    """One line of the file."""
    row: Row = {"setting": searched(setting), "repeat": repeat, "verdict": outcome.verdict.value, "attempts": attempts}
    row |= {"wall_s": round(wall_s, 2), "at": time.strftime("%H:%M:%S", time.gmtime())}
    if outcome.measurement is None:
        return row | {"reason": outcome.reason[:200]}
    return row | {name: _short(outcome.measurement.metrics[name]) for name in KEPT} | requests_of(outcome.samples)


def requests_of(parquet: bytes) -> Row:
    """Of each measured request the time to its first token and per further token, ms; None for one that failed."""
    table = pq.read_table(io.BytesIO(parquet)).to_pylist()
    measured = [Sample(**{name: row[name] for name in _FIELDS}) for row in table if not row["warm_up"]]
    return {
        "ttft_ms": [None if sample.error else _ms(ttft_s(sample), 1) for sample in measured],
        "tpot_ms": [None if sample.error else _ms(tpot_s(sample), 2) for sample in measured],
    }


def measured(runner: MeasuringRunner, bench: Bench, model: str, setting: Setting, repeat: int) -> Row:
    """One cell, tried again while the run is not believed."""
    begun_s = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        trial = LeasedTrial(
            id=f"{bench.name}-{repeat}",
            job="grid",
            tenant="local",
            number=0,
            attempt=attempt,
            setting=setting,
            seed=repeat,
        )
        outcome = runner.run(trial, bench.spec(model), stop=threading.Event())
        if outcome.verdict in (Verdict.OK, Verdict.INFEASIBLE):
            break
    return row_of(setting, repeat, outcome, attempt, time.monotonic() - begun_s)


def made_model(folder: Path) -> str:
    """The embedded engine's own tiny model, and its environment where there is none yet."""
    python = subprocess.run([ENGINE / "make-venv.sh"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    model = folder / "model.gguf"
    make = [python, "-m", "trimtab_engine.cli", "make-model", str(model)]
    subprocess.run(make, check=True, env={**os.environ, "PYTHONPATH": str(ENGINE)}, stdout=sys.stderr)
    return str(model)


def provenance_of(bench: Bench) -> Mapping[str, Any]:
    """What was measured, where and when."""
    return {
        "what": "goodput of every cell of a grid of the embedded engine's settings; a fresh process and one run each, "
        "repeats interleaved; the model is the engine's own (29.4 M parameters, Q8_0, f32 computation)",
        "load": bench.load.model_dump(mode="json", by_alias=True, exclude_none=True),
        "requests": bench.requests,
        "warm_up": bench.warm_up,
        "engine": load().engine("openvino").version,
        "host": fingerprint(),
        "recorded": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m tests.perf.tune_openvino_record FILE {bench.name}",
    }


def main() -> None:
    path, bench = Path(sys.argv[1]), next(one for one in BENCHES if one.name == sys.argv[2])
    repeats = int(sys.argv[3]) if len(sys.argv) > 3 else REPEATS
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": []}
    document["provenance"] = provenance_of(bench)
    done = len(document["runs"])
    with tempfile.TemporaryDirectory() as name:
        model = made_model(Path(name))
        runner = MeasuringRunner(Path(name), launchers(os.environ), others_pct_max=None, beside_live=True)
        plan = [(repeat, setting) for repeat in range(repeats) for setting in order(bench, repeat)]
        for repeat, setting in plan[done:]:
            row = measured(runner, bench, model, setting, repeat)
            document["runs"].append(row)
            path.write_text(as_text(document), encoding="utf-8")
            sys.stderr.write(f"{[row.get(name) for name in ('at', 'wall_s', 'setting', 'verdict', 'reason', *KEPT)]}\n")


def as_text(document: Mapping[str, Any]) -> str:
    """JSON with a line per run."""
    runs = ",\n".join(json.dumps(row, separators=(",", ":")) for row in document["runs"])
    return f'{{"provenance":{json.dumps(document["provenance"])},\n"runs":[\n{runs}\n]}}\n'


def _ms(value_s: float | None, digits: int) -> float | None:
    return None if value_s is None else round(value_s * 1e3, digits)


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


if __name__ == "__main__":
    main()
