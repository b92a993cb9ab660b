"""Verdicts resampled from recorded runs of the real engine (`validity_runs.json`, made by `validity_record`).

A recorded pair is two processes with one configuration, loaded one after the other: their true difference is none. Pairs
are drawn at random and turned round at random. The slower side of A/B is such a pair with the new side's rate divided by
1.15: the slowdown is exact, the noise is real. Each verdict takes pairs until its interval is narrow enough
(`tuner.measure.verdict.enough_pairs`).
"""

from __future__ import annotations

import json
import math
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
MOST_PAIRS = 64
LEAST_PAIRS = 40

Pair = tuple[float, float]


def recorded_pairs(recorded: dict[str, Any]) -> list[Pair]:
    """Rates of the pairs whose runs client and server agreed on."""
    whole = [pair for pair in recorded["pairs"] if all(run["verdict"] == "ok" for run in pair)]
    return [(float(first[METRIC]), float(second[METRIC])) for first, second in whole]


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
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    pairs = recorded_pairs(recorded)
    if len(pairs) < LEAST_PAIRS:
        raise SystemExit(f"{len(pairs)} whole pairs in {RECORDED.name}, {LEAST_PAIRS} are needed")
    spread = statistics.stdev(math.log(first / second) for first, second in pairs) * 100
    others = [run["others_cpu_pct"] for pair in recorded["pairs"] for run in pair if run["verdict"] == "ok"]
    sys.stderr.write(f"{len(pairs)} pairs; others took {statistics.median(others):.0f} % of the cores in the median\n")
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
    emit(Figure(bench, "pair_spread_pct", spread, "%", None, "lower", len(pairs)))


def covers(one: RegressionVerdict, truth_pct: float) -> bool:
    gain = one.gain_pct
    return gain is not None and gain.lo is not None and gain.hi is not None and gain.lo <= truth_pct <= gain.hi


def width_of(one: RegressionVerdict) -> float | None:
    gain = one.gain_pct
    return None if gain is None or gain.lo is None or gain.hi is None else gain.hi - gain.lo
