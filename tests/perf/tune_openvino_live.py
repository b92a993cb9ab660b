"""One whole tuning job per workload: `python -m tests.perf.tune_openvino_live FILE a|b`.

`trimtab tune run` on this machine, as a user would: the engine's own space with nothing taken out of it, the default
sampler, the engine's defaults as the configuration in use, confirmation in fresh processes. What others took of the
cores is kept and nothing is refused for it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controlplane.catalog import load
from tests.perf.tune_openvino import BENCHES, METRIC, Bench
from tests.perf.tune_openvino_record import made_model
from tuner.measure.machine import fingerprint

TRIALS = 20
NAME = "live"
_TRIMTAB = "from controlplane.main import main; main()"
_KEPT = ("number", "purpose", "state", "setting", "objectives", "seed", "attempt", "endedAt")


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


def live_study(bench: Bench) -> dict[str, Any]:
    """Run it and keep the decision and every trial."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = job_of(bench, made_model(folder))
        file = folder / "job.yaml"
        file.write_text(json.dumps(job), encoding="utf-8")
        options = ["--name", NAME, "--others-pct", "100", "--beside-live", "--output", "json"]
        # A job without anything to hand over ends with 1 and has its record all the same.
        record = _json(_trimtab(["run", str(file), *options], folder))
        trials = _json(_trimtab(["trials", NAME, "--limit", "500", "--output", "json"], folder))
    job["target"]["model"] = "the engine's own (29.4 M parameters, Q8_0)"
    return {
        "recorded": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": f"python -m tests.perf.tune_openvino_live FILE {bench.name}",
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
    document = live_study(bench)
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
