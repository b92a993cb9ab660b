"""Tuning the embedded engine for goodput: the default sampler against Optuna's TPE, and what a whole job gains.

`trials_vs_tpe`: trials of the default sampler until it has tried a good setting, over those of TPE: the ratio of the
means of 100 seeds, with its 90 % bootstrap interval as spread, per workload and of both together. Studies are replayed
on the recorded grids (`tune_openvino_grid_a.json`, `_b.json`); the sampler is the one that a job gets, told the figures of
each run. `_unfitted`: the same without a simulator. `_transfer`: B begun with what a job of twenty trials on A handed
over. `study_cpu_ms_per_trial`: of the default sampler, the replay's own share included. `gain_lo_pct`: lower end of the 90 % interval of the gain
over the engine's defaults that one job per workload found (`trimtab tune run`); the recorded one, or with
TRIMTAB_BENCH_LIVE=1 one that is run now, for minutes and on a machine with nothing else to do.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from controlplane.model.tuning_decision import TuningDecision
from tests.perf.report import Emit, Figure
from tests.perf.tune_openvino import BENCHES, Bench
from tests.perf.tune_openvino_live import live_study
from tests.perf.tune_openvino_replay import Arm, Found, Grid, grid_of, handed_over, key_of, ratio_interval, study

BENCH = "tune-openvino"
HERE = Path(__file__).parent
ARMS: tuple[Arm, ...] = ("default", "unfitted", "tpe", "random")
SEEDS = range(100)


def grid_path(bench: Bench) -> Path:
    return HERE / f"tune_openvino_grid_{bench.name}.json"


def live_path(bench: Bench) -> Path:
    return HERE / f"tune_openvino_live_{bench.name}.json"


def run(emit: Emit) -> None:
    found: dict[Arm, list[list[Found]]] = {arm: [] for arm in ARMS}
    grids = {bench.name: grid_of(bench, _read(grid_path(bench))) for bench in BENCHES}
    for bench in BENCHES:
        recorded, grid = _read(grid_path(bench)), grids[bench.name]
        _tell(bench, grid, recorded)
        for arm in ARMS:
            begun_s = time.process_time()
            found[arm].append([study(grid, arm, seed) for seed in SEEDS])
            if arm == "default":
                _cpu(emit, bench, time.process_time() - begun_s, found[arm][-1])
            _trials(emit, bench, arm, found[arm][-1])
        _ratio(emit, f"_{bench.name}", found["default"][-1:], found["tpe"][-1:])
        _ratio(emit, f"_unfitted_{bench.name}", found["unfitted"][-1:], found["tpe"][-1:], None)
    _ratio(emit, "", found["default"], found["tpe"])
    _ratio(emit, "_unfitted", found["unfitted"], found["tpe"], None)
    after = [study(grids["b"], "default", seed, earlier=handed_over(grids["a"], seed)) for seed in SEEDS]
    _ratio(emit, "_transfer", [after], found["tpe"][1:], None)
    live = os.environ.get("TRIMTAB_BENCH_LIVE") == "1"
    for bench in BENCHES:
        _gain(emit, bench, live_study(bench) if live else _read(live_path(bench)))


def _trials(emit: Emit, bench: Bench, arm: Arm, found: list[Found]) -> None:
    """The mean, with the range over the seeds, and how many studies never found any."""
    trials = [float(one.trials) for one in found]
    spread = (min(trials), max(trials))
    mean = statistics.fmean(trials)
    emit(Figure(BENCH, f"trials_{arm}_{bench.name}", mean, "trials", None, "lower", len(found), spread))
    censored = float(sum(one.censored for one in found))
    emit(Figure(BENCH, f"censored_{arm}_{bench.name}", censored, "studies", None, "lower", len(found)))


def _cpu(emit: Emit, bench: Bench, cpu_s: float, found: list[Found]) -> None:
    per_trial_ms = cpu_s * 1e3 / sum(one.trials for one in found)
    emit(Figure(BENCH, f"study_cpu_ms_per_trial_{bench.name}", per_trial_ms, "ms", None, "lower", len(found)))


def _ratio(
    emit: Emit, suffix: str, ours: list[list[Found]], theirs: list[list[Found]], target: float | None = 0.5
) -> None:
    value, low, high = ratio_interval(ours, theirs)
    emit(Figure(BENCH, f"trials_vs_tpe{suffix}", value, "ratio", target, "lower", len(SEEDS), (low, high)))


def _gain(emit: Emit, bench: Bench, document: dict[str, Any]) -> None:
    """The lower end; the interval as spread; None where the job found no interval."""
    decision = TuningDecision.model_validate(document["decision"])
    gain = None if decision.best is None else decision.best.gain_pct
    sys.stderr.write(f"{bench.name}: job of {document['recorded']}: {decision.message}\n")
    low = None if gain is None else gain.lo
    spread = None if gain is None or gain.lo is None or gain.hi is None else (gain.lo, gain.hi)
    emit(Figure(BENCH, f"gain_lo_pct_{bench.name}", low, "%", 0.0, "higher", 0 if gain is None else gain.runs, spread))


def _tell(bench: Bench, grid: Grid, recorded: dict[str, Any]) -> None:
    """What the grid is like, on standard error."""
    runs = recorded["runs"]
    default = [row for row in runs if key_of(row["setting"]) == key_of(bench.default()) and row["verdict"] == "ok"]
    others = statistics.median(row["others_cpu_pct"] for row in runs if row.get("others_cpu_pct") is not None)
    sys.stderr.write(
        f"{bench.name}: {len(bench.cells())} cells, {len(runs)} runs of {recorded['provenance']['recorded']}, "
        f"{len(grid.good())} good; the default attains {grid.attainment_of(default):.0%}; others took {others:.0f} % of the cores\n"
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise SystemExit(f"{path.name} is not there: record it first (tests/perf/tune_openvino_record.py, _live.py)")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
