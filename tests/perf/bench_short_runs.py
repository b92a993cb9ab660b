"""What short runs save, and what they cost: searches of 20 trials replayed on the recorded grids, 100 seeds per workload.

`requests_saved_pct`: of all that the searches would have sent, warm-up among them. `best_cut_pct`: trials on good cells (the
mean within 5 % of the best) that a short run ended, of all trials on such cells. `trials_cut_pct`: of all trials.
"""

from __future__ import annotations

from tests.perf.bench_tune_openvino import SEEDS, grid_path
from tests.perf.report import Emit, Figure
from tests.perf.short_runs_replay import Replayed, read_grid, runs_of, search
from tests.perf.tune_openvino import BENCHES
from tests.perf.tune_openvino_replay import grid_of

BENCH = "short-runs"


def run(emit: Emit) -> None:
    everything: list[Replayed] = []
    for bench in BENCHES:
        recorded = read_grid(grid_path(bench))
        runs, grid = runs_of(bench, recorded), grid_of(bench, recorded)
        found = [search(runs, grid, seed) for seed in SEEDS]
        everything += found
        _emit(emit, f"_{bench.name}", found)
    _emit(emit, "", everything)


def _emit(emit: Emit, suffix: str, found: list[Replayed]) -> None:
    each = [100 * (1 - one.used / one.whole) for one in found]
    saved = 100 * (1 - sum(one.used for one in found) / sum(one.whole for one in found))
    emit(Figure(BENCH, f"requests_saved_pct{suffix}", saved, "%", None, "higher", len(found), (min(each), max(each))))
    good = sum(one.good for one in found)
    lost = None if good == 0 else 100 * sum(one.lost for one in found) / good
    emit(Figure(BENCH, f"best_cut_pct{suffix}", lost, "%", None, "lower", good))
    cut = 100 * sum(one.cut for one in found) / sum(one.trials for one in found)
    emit(Figure(BENCH, f"trials_cut_pct{suffix}", cut, "%", None, "higher", sum(one.trials for one in found)))
