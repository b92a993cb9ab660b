"""Seconds of `make up` to the first streamed token, on a cluster of its own beside whatever runs.

`warm_s`: caches full, cluster down. `cold_s`: everything compiled and built, from an empty cache; as that takes a
quarter of an hour it is measured only with TRIMTAB_BENCH_COLD=1, and otherwise taken from the start that filled the
present cache, where that start left its duration behind.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from devcluster.paths import STATE_ROOT, TREE, cache_root
from tests.perf.report import Emit, Figure, from_samples

NAME = "t-bench-up"
WARM_RUNS = 3
COLD_TARGET_S = 1200.0
WARM_TARGET_S = 60.0


def run(emit: Emit) -> None:
    try:
        _devcluster("down")
        _devcluster("up")  # fills what the caches lack, the nodes' image stores among them
        warm = [_timed_start() for _ in range(WARM_RUNS)]
    finally:
        _devcluster("down", "--purge")
    emit(from_samples("up", "warm_s", warm, "s", WARM_TARGET_S, "lower"))
    emit(_cold())


def _timed_start() -> float:
    _devcluster("down")
    _devcluster("up")
    record = json.loads((STATE_ROOT / NAME / "timing.json").read_text())
    slow = sorted(record["phases_s"].items(), key=lambda item: -item[1])[:6]
    sys.stderr.write(f"warm start {record['total_s']} s; longest: {slow}\n")
    return float(record["total_s"])


def _cold() -> Figure:
    if os.environ.get("TRIMTAB_BENCH_COLD") == "1":
        with tempfile.TemporaryDirectory(prefix="trimtab-cold-", dir=cache_root().parent) as folder:
            try:
                _devcluster("up", cache=Path(folder))
                cold_s = json.loads((Path(folder) / "first-start.json").read_text())["total_s"]
            finally:
                _devcluster("down", "--purge", cache=Path(folder))
                shutil.rmtree(folder, ignore_errors=True)
        return from_samples("up", "cold_s", [cold_s], "s", COLD_TARGET_S, "lower")
    recorded = cache_root() / "first-start.json"
    if recorded.exists():
        return from_samples("up", "cold_s", [json.loads(recorded.read_text())["total_s"]], "s", COLD_TARGET_S, "lower")
    sys.stderr.write("cold_s: set TRIMTAB_BENCH_COLD=1 to measure it (about 10 minutes)\n")
    return Figure("up", "cold_s", None, "s", COLD_TARGET_S, "lower", 0)


def _devcluster(*arguments: str, cache: Path | None = None) -> None:
    env = {**os.environ, **({"TRIMTAB_CACHE": str(cache)} if cache else {})}
    command = [sys.executable, "-m", "devcluster", *arguments, "--name", NAME]
    subprocess.run(command, cwd=TREE, env=env, check=True, stdout=sys.stderr)
