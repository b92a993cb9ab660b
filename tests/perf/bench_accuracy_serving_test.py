"""Accuracy of the serving predictor on the test split: run once per release. Every run is appended to a committed log,
so that nobody can look twice in secret."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from tests.perf.report import Emit, Figure
from tuner.serving.calibration.accuracy import ask, points
from tuner.serving.calibration.score import Point, score
from tuner.serving.calibration.silicon import load_silicon
from tuner.serving.calibration.split import split
from tuner.serving.predict import Predictor

BENCH = "accuracy-serving-test"
LOG = Path(__file__).parents[2] / "docs" / "accuracy-test-log.jsonl"


def run(emit: Emit) -> None:
    predictor = Predictor()
    rows = [row for row in split(load_silicon()).test if row.mode == "agg"]
    answered = ask(rows, predictor.answer)
    ttft, tpot = points(answered, "ttft"), points(answered, "tpot")
    vllm = [point for point in ttft if ("backend", "vllm") in point.labels]
    figures: dict[str, tuple[float | None, float | None]] = {
        "test_tpot_median_pct": (score(tpot).median_pct, 13.0),
        "test_ttft_median_pct": (score(ttft).median_pct, 45.0),
        "test_vllm_ttft_median_pct": (score(vllm).median_pct, 22.0),
        "test_ttft_coverage_pct": (_inside_pct(ttft), 85.0),
        "test_tpot_coverage_pct": (_inside_pct(tpot), 85.0),
        "test_coverage_pct": (_inside_pct([*ttft, *tpot]), 85.0),
        "test_ttft_half_width_pct": (_half_width_pct(ttft), None),
        "test_tpot_half_width_pct": (_half_width_pct(tpot), None),
        "test_answered_pct": (100 * sum(item.answer is not None for item in answered) / len(rows), None),
    }
    _log({name: value for name, (value, _) in figures.items()}, predictor, len(rows))
    for name, (value, target) in figures.items():
        better = "higher" if name.endswith(("coverage_pct", "answered_pct")) else "lower"
        emit(Figure(bench=BENCH, figure=name, value=value, unit="%", target=target, better=better, n=len(rows)))  # type: ignore[arg-type]


def _inside_pct(items: list[Point]) -> float | None:
    known = [item for item in items if item.lo is not None and item.hi is not None]
    if not known:
        return None
    return 100 * sum(item.lo <= item.measured <= item.hi for item in known) / len(known)  # type: ignore[operator]


def _half_width_pct(items: list[Point]) -> float | None:
    widths = [
        100 * (item.hi - item.lo) / 2 / item.predicted for item in items if item.predicted and item.hi and item.lo
    ]
    return median(widths) if widths else None


def _log(figures: dict[str, float | None], predictor: Predictor, rows: int) -> None:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    line = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "calibration": None if predictor.calibration is None else predictor.calibration.name,
        "rows": rows,
        "figures": {name: None if value is None else round(value, 3) for name, value in figures.items()},
    }
    with LOG.open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
