"""Verdicts resampled from recorded runs of the real engine (`validity_runs.json`, made by `validity_record`).

Neighbours in time are pairs, turned round at random: two measurements of one thing, whose true difference is none. The
slower one of A/B is such a pair with the new side's rate divided by 1.15: the slowdown is exact, the noise is real.
Each verdict takes pairs until its interval is narrow enough (`tuner.measure.verdict.enough_pairs`).
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.perf.report import Emit, Figure
from tuner.measure.verdict import RegressionVerdict, enough_pairs, judge_pairs

RECORDED = Path(__file__).with_name("validity_runs.json")
METRIC = "output_tokens_per_s"
VERDICTS = 200
SLOWDOWN = 1.15
WIDTH_PCT = 10.0
MOST_PAIRS = 16
OTHERS_PCT = 25.0  # what the runner believes
LEAST_RUNS = 20

Pair = tuple[float, float]


def believed(recorded: dict[str, Any]) -> list[float]:
    """Rates of the runs that the runner would have believed, in the order they were recorded."""
    runs = [run for run in recorded["runs"] if run["verdict"] == "ok" and run["others_cpu_pct"] <= OTHERS_PCT]
    return [float(run[METRIC]) for run in runs]


def verdict(pairs: list[Pair], rng: np.random.Generator, slowdown: float) -> RegressionVerdict:
    """One comparison: pairs drawn until there are enough."""
    drawn: list[Pair] = []
    while not enough_pairs(drawn, maximize=True, width_pct=WIDTH_PCT, most=MOST_PAIRS):
        first, second = pairs[int(rng.integers(len(pairs)))]
        new, old = (first, second) if rng.random() < 0.5 else (second, first)
        drawn.append((new / slowdown, old))
    return judge_pairs(METRIC, drawn, maximize=True)


def run(emit: Emit) -> None:
    """Emit coverage and width of A/A verdicts and the share of slowdowns found."""
    if not RECORDED.exists():
        raise SystemExit(
            f"{RECORDED.name} is not there: record it at a quiet moment (python -m tests.perf.validity_record)"
        )
    rates = believed(json.loads(RECORDED.read_text(encoding="utf-8")))
    if len(rates) < LEAST_RUNS:
        raise SystemExit(f"{len(rates)} believed runs in {RECORDED.name}, {LEAST_RUNS} are needed")
    pairs = list(itertools.pairwise(rates))
    spread = statistics.stdev(np.log(rates).tolist()) * 100
    sys.stderr.write(f"{len(rates)} believed runs, standard deviation {spread:.1f} %\n")
    rng = np.random.default_rng(0)
    same = [verdict(pairs, rng, 1.0) for _ in range(VERDICTS)]
    slower = [verdict(pairs, rng, SLOWDOWN) for _ in range(VERDICTS)]
    covered = sum(covers(one, 0.0) for one in same) / VERDICTS * 100
    widths = [width for one in same if (width := width_of(one)) is not None]
    found = sum(one.word == "slower" for one in slower) / VERDICTS * 100
    used = [float(one.gain_pct.runs) for one in same if one.gain_pct is not None]
    bench = "validity"
    emit(Figure(bench, "aa_coverage_pct", covered, "%", 86.0, "higher", VERDICTS))
    emit(
        Figure(
            bench,
            "aa_width_pct",
            statistics.median(widths),
            "%",
            10.0,
            "lower",
            len(widths),
            (min(widths), max(widths)),
        )
    )
    emit(Figure(bench, "ab_found_pct", found, "%", 80.0, "higher", VERDICTS))
    emit(Figure(bench, "aa_pairs", statistics.median(used), "pairs", None, "lower", len(used), (min(used), max(used))))
    emit(Figure(bench, "run_spread_pct", spread, "%", None, "lower", len(rates)))


def covers(one: RegressionVerdict, truth_pct: float) -> bool:
    gain = one.gain_pct
    return gain is not None and gain.lo is not None and gain.hi is not None and gain.lo <= truth_pct <= gain.hi


def width_of(one: RegressionVerdict) -> float | None:
    gain = one.gain_pct
    return None if gain is None or gain.lo is None or gain.hi is None else gain.hi - gain.lo
