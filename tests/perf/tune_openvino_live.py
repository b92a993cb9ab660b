"""One whole tuning job per workload: `python -m tests.perf.tune_openvino_live FILE a|b [--stated]`.

`trimtab tune run` on this machine, as a user would: the engine's own space with nothing taken out of it, the default
sampler, the engine's defaults as the configuration in use, confirmation in fresh processes. Nothing is refused for what
others take of the cores.

How fast a shared machine is changes from hour to hour, and limits that half of the requests keep in one may be kept by all
in the next. So a pilot comes first: runs of the engine's defaults, of which half the requests keep the limit per token
that is then set; the one of the first token stays. `--stated` takes the limits of the grid instead.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from controlplane.catalog import load
from controlplane.model.tuning import Verdict
from controlplane.tuning_embedded import launchers
from tests.perf.tune_openvino import BENCHES, METRIC, Bench
from tests.perf.tune_openvino_record import made_model, measured
from tuner.measure.machine import fingerprint
from tuner.measure.runner import MeasuringRunner

TRIALS = 20
PILOT_RUNS = 4
_PILOT_SEED = 2_000_000  # no trial of the job sends its requests
NAME = "live"
_TRIMTAB = "from controlplane.main import main; main()"
_KEPT = ("number", "purpose", "state", "setting", "objectives", "seed", "attempt", "endedAt")


def half_kept(runs: Sequence[Mapping[str, Any]], ttft_ms: float) -> float:
    """The limit per token, in ms, that half of the requests of these runs keep beside `ttft_ms`. Raises ValueError where
    even without one fewer do."""
    requests = [pair for run in runs for pair in zip(run["ttft_ms"], run["tpot_ms"], strict=True)]
    within = sorted(tpot for ttft, tpot in requests if ttft is not None and tpot is not None and ttft <= ttft_ms)
    needed = math.ceil(len(requests) / 2)
    if not requests or len(within) < needed:
        raise ValueError(f"{len(within)} of {len(requests)} first tokens came within {ttft_ms:g} ms: half are needed")
    return float(within[needed - 1])


def piloted(bench: Bench, model: str, folder: Path) -> Bench:
    """The workload with the limit per token that half of the default setting's requests keep now."""
    runner = MeasuringRunner(folder / "hardware", launchers(os.environ), others_pct_max=None, beside_live=True)
    rows = [measured(runner, bench, model, {}, _PILOT_SEED + i) for i in range(PILOT_RUNS)]
    assert bench.slo.ttft_ms is not None
    tpot_ms = half_kept([row for row in rows if row["verdict"] == Verdict.OK.value], bench.slo.ttft_ms)
    return replace(bench, slo=bench.slo.model_copy(update={"tpot_ms": round(tpot_ms, 1)}))


def job_of(bench: Bench, model: str) -> dict[str, Any]:
    """The file that a user would write."""
    return {
        "target": {"kind": "engine", "engine": "openvino", "model": model},
        "objectives": [{"metric": METRIC}],
        "slo": bench.slo.model_dump(mode="json", by_alias=True, exclude_none=True),
        "load": bench.load.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
        | {"arrivals": bench.load.arrivals},
        "budget": {"trials": TRIALS},
        "measuring": {
            "requests": bench.requests,
            "warmUpRequests": bench.warm_up,
            "runsMax": 1,
            "confirmTop": 2,
            "confirmRuns": bench.confirm_runs,
        },
    }


def live_study(bench: Bench, *, pilot: bool = True) -> dict[str, Any]:
    """Run it and keep the decision and every trial."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = made_model(folder)
        job = job_of(piloted(bench, model, folder) if pilot else bench, model)
        file = folder / "job.yaml"
        file.write_text(json.dumps(job), encoding="utf-8")
        options = ["--name", NAME, "--others-pct", "100", "--beside-live", "--output", "json"]
        # A job without anything to hand over ends with 1 and has its record all the same.
        record = _json(_trimtab(["run", str(file), *options], folder))
        trials = _json(_trimtab(["trials", NAME, "--limit", "500", "--output", "json"], folder))
    job["target"]["model"] = "the engine's own (29.4 M parameters, Q8_0)"
    return {
        "recorded": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m tests.perf.tune_openvino_live FILE {bench.name}{'' if pilot else ' --stated'}",
        "host": fingerprint(),
        "engine": load().engine("openvino").version,
        "job": job,
        "decision": record["decision"],
        "trials": [row_of(trial) for trial in trials],
    }


def row_of(trial: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a trial."""
    return {name: trial[name] for name in _KEPT}


def main() -> None:
    path, bench = Path(sys.argv[1]), next(one for one in BENCHES if one.name == sys.argv[2])
    document = live_study(bench, pilot="--stated" not in sys.argv)
    path.write_text(as_text(document), encoding="utf-8")
    sys.stderr.write(f"{document['decision']['message']}\n")


def as_text(document: Mapping[str, Any]) -> str:
    """JSON with a line per trial."""
    head = json.dumps({name: value for name, value in document.items() if name != "trials"}, indent=1)
    trials = ",\n".join(json.dumps(row, separators=(",", ":")) for row in document["trials"])
    return f'{head.removesuffix("}").rstrip()},\n "trials":[\n{trials}\n]}}\n'


def _trimtab(words: Sequence[str], folder: Path) -> str:
    command = [sys.executable, "-c", _TRIMTAB, "tune", *words, "--state-dir", str(folder / "state")]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    return done.stdout


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise SystemExit(f"the job did not end with a record: {text[:500]}") from None


if __name__ == "__main__":
    main()
