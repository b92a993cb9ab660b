"""Scores predictions on a folder of published tables: errors, intervals, rankings, next to what peers reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from controlplane.model.errors import TrimtabError
from controlplane.model.training import TrainingCase
from tuner.training.calibration.held_out import held_out
from tuner.training.calibration.plan import HELD_OUT_BY
from tuner.training.calibration.score import by_group, errors, ranking
from tuner.training.checks import check
from tuner.training.columns import Array, columns
from tuner.training.compute import layer_time
from tuner.training.constants import shipped
from tuner.training.evaluate import times, waterfall
from tuner.training.hardware import hardware
from tuner.training.loaders.rows import Row, Table
from tuner.training.loaders.tables import lacking, tables
from tuner.training.loaders.variants import VARIANTS, Variant
from tuner.training.patterns import pattern
from tuner.training.predict import Predictor

# Mean absolute errors of other tools, measured on slightly different row sets of the same tables.
PEERS: dict[str, dict[str, float]] = {
    "vtrain_multi": {"calculon mape_pct": 17.3, "vTrain mape_pct": 14.73},
    "vtrain_single": {"calculon mape_pct": 38.3, "vTrain mape_pct": 8.37},
    "ptdp": {"calculon mape_pct": 12.0},
    "korthikanti": {"calculon mape_pct": 3.65},
    "amp": {"AMP mape_pct": 65.0, "AMP spearman het_cluster": 0.05},
}
_MOST_DROPS = 200  # listed; all are counted


def score_folder(folder: Path, *, refit: bool = False, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """The report of every known table. `refit` judges fitted tables by constants that never saw the row's group."""
    found, unknown = tables(folder)
    rows = {table.name: table.rows for _, table in found if any(row.iteration_s for row in table.rows)}
    predicted: dict[int, float] = {}
    if refit:
        fitted = [name for name in rows if name in HELD_OUT_BY]
        for item in held_out(rows, shipped(), fitted, progress):
            predicted[id(item.row)] = item.predicted_s
    reports = [_report(name, table, predicted) for name, table in found]
    return {
        "constants": "refitted without the group that is judged" if refit else "as shipped",
        "tables": reports,
        "unknown_files": unknown,
        "unknown_files_lack": [lacking(folder / name) for name in unknown],
        "interval": _pooled(reports),
    }


def _report(name: str, table: Table, predicted: dict[int, float]) -> dict[str, Any]:
    report: dict[str, Any] = {
        "table": table.name,
        "file": name,
        "n": len(table.rows),
        "fitted": table.name in HELD_OUT_BY,
        "assumed": table.assumed,
        "dropped": len(table.dropped),
        "drops": [{"line": line, "reason": reason} for line, reason in table.dropped[:_MOST_DROPS]],
        "peers": PEERS.get(table.name, {}),
    }
    timed = [row for row in table.rows if row.iteration_s is not None]
    if timed:
        fresh = times([row.case for row in timed], shipped()).seconds
        seconds = np.array([predicted.get(id(row), value) for row, value in zip(timed, fresh, strict=True)])
        measured = np.array([row.iteration_s for row in timed], dtype=np.float64)
        report["time"] = {
            **errors(seconds, measured),
            "per_size": by_group(seconds, measured, [row.size for row in timed]),
            "per_pattern": by_group(seconds, measured, [row.pattern for row in timed]),
        }
        report["interval"] = _interval(timed, seconds, measured)
        if table.name in VARIANTS:
            report["spread"] = _spread(timed, measured, VARIANTS[table.name])
        if table.name == "amp":
            sizes = np.array([row.size for row in timed])
            report["ranking"] = {
                group: ranking(seconds[sizes == group], measured[sizes == group]) for group in sorted(set(sizes))
            }
    layers = [row for row in table.rows if row.layer_s is not None]
    if layers:
        found = np.array([_layer_s(row.case) for row in layers])
        report["layer"] = errors(found, np.array([row.layer_s for row in layers], dtype=np.float64))
    weighed = [row for row in table.rows if row.memory_bytes is not None]
    if weighed:
        memory = np.array([_peak(row) for row in weighed])
        bytes_ = np.array([row.memory_bytes for row in weighed], dtype=np.float64)
        report["memory"] = {
            **errors(memory, bytes_),
            "per_size": by_group(memory, bytes_, [row.size for row in weighed]),
            "per_pattern": by_group(memory, bytes_, [row.pattern for row in weighed]),
        }
    return report


def _layer_s(case: TrainingCase) -> float:
    rows = columns([(case, 0)], tuple(shipped().accelerators))
    found = layer_time(rows, hardware(rows, shipped()), shipped())
    return float(found.forward[0] + found.backward[0])


def _spread(rows: list[Row], measured: Array, variants: dict[str, Variant]) -> dict[str, Any]:
    """Errors with shipped constants when one thing the table does not say is read otherwise; runs that cannot be are
    left out of that reading."""
    found: dict[str, Any] = {}
    for name, change in variants.items():
        cases, truth = [], []
        for row, seconds in zip(rows, measured, strict=True):
            try:
                case = change(row.case)
                check(case)
            except TrimtabError:
                continue
            cases.append(case)
            truth.append(seconds)
        if cases:
            result = errors(times(cases, shipped()).seconds, np.array(truth))
            found[name] = {key: result[key] for key in ("n", "mape_pct", "bias_pct")}
    return found


def _peak(row: Row) -> float:
    """A stage as the table reports it: what tensors take, or the whole process."""
    parts = waterfall(row.case, shipped())
    stages = (parts.total if row.whole_process else parts.total - parts.overhead)[0]
    return float(stages[-1] if row.last_stage else stages.max())


def _interval(rows: list[Row], seconds: Array, measured: Array) -> dict[str, Any]:
    predictor = Predictor()
    widths = [predictor.half_width(row.case) for row in rows]
    known = [width if width is not None else math.nan for width in widths]
    inside = [
        abs(math.log(value / truth)) <= width for value, truth, width in zip(seconds, measured, known, strict=True)
    ]
    patterns: dict[str, dict[str, float | int]] = {}
    for label in sorted({pattern(row.case) for row in rows}):
        picked = [hit for hit, row in zip(inside, rows, strict=True) if pattern(row.case) == label]
        patterns[label] = {"n": len(picked), "covered": sum(picked)}
    return {
        "coverage_pct": round(100.0 * sum(inside) / len(inside), 2),
        "half_width_pct": round(100.0 * (math.exp(float(np.median(known))) - 1.0), 2),
        "per_pattern": patterns,
    }


def _pooled(reports: list[dict[str, Any]]) -> dict[str, Any] | None:
    totals: dict[str, list[int]] = {}
    for report in reports:
        for label, counts in report.get("interval", {}).get("per_pattern", {}).items():
            total = totals.setdefault(label, [0, 0])
            total[0] += counts["n"]
            total[1] += counts["covered"]
    n = sum(total[0] for total in totals.values())
    if n == 0:
        return None
    return {
        "n": n,
        "coverage_pct": round(100.0 * sum(total[1] for total in totals.values()) / n, 2),
        "per_pattern": {
            label: {"n": total[0], "coverage_pct": round(100.0 * total[1] / total[0], 2)}
            for label, total in sorted(totals.items())
        },
    }
