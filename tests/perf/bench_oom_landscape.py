"""Trials lost to an out-of-memory edge, and what is found beside it: the default sampler against published figures.

`published_*`: five ways of telling Optuna 5.0.0 of a failure, seeds 0 to 19. Then the default sampler on seeds 100 to
199, which no setting was chosen on; `_precheck`: with a memory model whose coefficients are up to 10 % wrong.
"""

import statistics
from collections.abc import Sequence

from tests.perf import oom_published
from tests.perf.oom_study import Outcome, long_ask_cpu_ms, study
from tests.perf.report import Emit, Figure

BENCH = "oom-landscape"
SEEDS = range(100, 200)
LONG = 10_000


def run(emit: Emit) -> None:
    for arm in oom_published.ARMS:
        told = [oom_published.study(arm, seed) for seed in oom_published.SEEDS]
        _mean(emit, f"published_{arm}_wasted", [one.wasted for one in told], "trials of 60", None, "lower")
        _mean(emit, f"published_{arm}_best_mean", [one.best for one in told], "value", None, "higher")
        best = sorted(one.best for one in told)
        emit(Figure(BENCH, f"published_{arm}_best_median", best[len(best) // 2], "value", None, "higher", len(best)))
        emit(Figure(BENCH, f"published_{arm}_best_min", best[0], "value", None, "higher", len(best)))
    _ours(emit, [study(seed) for seed in SEEDS], "", wasted=11.0)
    _ours(emit, [study(seed, precheck=True) for seed in SEEDS], "_precheck", wasted=8.0)
    _mean(emit, "ask_cpu_ms_at_10000", long_ask_cpu_ms(LONG), "ms", 60.0, "lower")


def _ours(emit: Emit, found: Sequence[Outcome], suffix: str, *, wasted: float) -> None:
    _mean(emit, f"wasted{suffix}", [one.wasted for one in found], "trials of 60", wasted, "lower")
    best = sorted(one.best for one in found)
    _mean(emit, f"best_mean{suffix}", best, "value", 146.5, "higher")
    emit(Figure(BENCH, f"best_p5{suffix}", best[len(best) // 20], "value", 138.0, "higher", len(best)))
    target = None if suffix else 145.5
    _mean(emit, f"recommended_mean{suffix}", [one.recommended for one in found], "value", target, "higher")
    _mean(emit, f"ask_cpu_ms_at_60{suffix}", [one.ask_cpu_ms for one in found], "ms", 60.0, "lower")


def _mean(emit: Emit, figure: str, values: Sequence[float], unit: str, target: float | None, better: str) -> None:
    """The mean, with the range over the seeds."""
    mean = statistics.fmean(values)
    spread = (min(values), max(values))
    emit(Figure(BENCH, figure, mean, unit, target, better, len(values), spread))  # type: ignore[arg-type]
