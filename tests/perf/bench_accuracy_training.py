"""Accuracy of the training model on published runs kept beside the checkout; fitted tables held out by group.

The bubble rates count only rows that no input was fitted to. A figure whose table or feature is missing is emitted
without a value. The spread of a table that leaves settings out is the least and the most of its error over other
readings of them; that of a rank correlation its bootstrap interval.
"""

from pathlib import Path
from typing import Any

from tests.perf.report import Emit, Figure
from tuner.training.accuracy import score_folder
from tuner.training.calibration.bubbles import bubbles
from tuner.training.constants import document

FOLDER = Path(__file__).parents[2].parent / "shared" / "truth" / "training"
# figure: table, part of the report, error figure, target
FIGURES: dict[str, tuple[str, str, str, float]] = {
    "vtrain_multi_mape_pct": ("vtrain_multi", "time", "mape_pct", 8),
    "vtrain_multi_median_pct": ("vtrain_multi", "time", "median_pct", 5),
    "vtrain_single_mape_pct": ("vtrain_single", "time", "mape_pct", 7),
    "ptdp_mape_pct": ("ptdp", "time", "mape_pct", 5),
    "korthikanti_mape_pct": ("korthikanti", "time", "mape_pct", 3),
    "megascale_mape_pct": ("megascale", "time", "mape_pct", 6),
    "zerobubble_mape_pct": ("zerobubble", "time", "mape_pct", 5),
    "vocab_mfu_mape_pct": ("vocab", "time", "mape_pct", 6),
    "vocab_memory_mape_pct": ("vocab", "memory", "mape_pct", 4),
    "h100_strong_mape_pct": ("h100_strong", "time", "mape_pct", 3),
    "h100_weak_mape_pct": ("h100_weak", "time", "mape_pct", 9),
    "golden_memory_median_pct": ("golden_memory", "memory", "median_pct", 8),
    "fsdp_median_pct": ("fsdp", "time", "median_pct", 7),
    "torchtitan_median_pct": ("torchtitan", "time", "median_pct", 10),
    "sailor_time_mape_pct": ("sailor", "time", "mape_pct", 15),
    "sailor_memory_mape_pct": ("sailor", "memory", "mape_pct", 10),
}


def run(emit: Emit) -> None:
    tables: dict[str, dict[str, Any]] = {}
    if FOLDER.is_dir():
        tables = {report["table"]: report for report in score_folder(FOLDER, refit=True)["tables"]}
    for figure, (table, part, name, target) in FIGURES.items():
        report = tables.get(table, {})
        errors = report.get(part)
        value, n = (errors[name], errors["n"]) if errors else (None, 0)
        # Least and most over other readings of what the table does not say, with the constants as shipped.
        readings = [reading[name] for reading in report.get("spread", {}).values() if name in reading]
        spread = (min(value, *readings), max(value, *readings)) if part == "time" and readings else None
        emit(Figure("accuracy-training", figure, value, "%", target, "lower", n, spread))
    rank = tables.get("amp", {}).get("ranking", {}).get("het_cluster")
    emit(
        Figure(
            "accuracy-training", "amp_het_spearman", rank["spearman"] if rank else None, "", 0.8, "higher",
            rank["n"] if rank else 0, tuple(rank["spearman_95"]) if rank else None,
        )
    )  # fmt: skip
    table5 = FOLDER / "zerobubble_table5_bubble.csv"
    rows = [row for row in bubbles(table5) if not row.fitted] if table5.is_file() else []
    points = [100.0 * abs(row.simulated - row.printed) for row in rows]
    value = round(sum(points) / len(points), 3) if points else None
    emit(Figure("accuracy-training", "zb_bubble_points", value, "points", 1, "lower", len(points)))
    kept = document()["intervals"]  # each row by the other groups' half-widths, when the constants were fitted
    emit(Figure("accuracy-training", "interval_coverage_pct", kept["coverage_pct"], "%", 90, "higher", kept["rows"]))
