"""Writes a constants file: values, what they were fitted on, residuals, and intervals over held-out groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from tuner.training.calibration.held_out import Held, fit_all, held_out
from tuner.training.calibration.intervals import LEVEL, coverage, half_widths
from tuner.training.calibration.plan import HELD_OUT_BY, PRIORS, WEIGHTS
from tuner.training.calibration.score import errors
from tuner.training.constants import ACCELERATOR_NAMES, GLOBAL_NAMES, Constants, document, from_document
from tuner.training.loaders.tables import tables
from tuner.training.patterns import pattern

_UNFITTED = "prior, not fitted"


def refit(folder: Path, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """The document of constants fitted on a folder of published tables."""
    start = from_document(document())
    found, _ = tables(folder)
    rows = {table.name: table.rows for _, table in found if any(row.iteration_s for row in table.rows)}
    held = held_out(rows, start, progress=progress)
    constants = fit_all(rows, start)
    covered = coverage(held)
    return {
        **_values(constants),
        "fit": {
            "files": {
                name: {"table": table.name, "rows": len(table.rows), "dropped": len(table.dropped),
                       "counts_as_rows": WEIGHTS[table.name], "filter": table.assumed,
                       "held_out_by": HELD_OUT_BY[table.name]}
                for name, table in found if table.name in WEIGHTS
            },
            "never_fitted": sorted(set(rows) - set(WEIGHTS)),
            "residuals_held_out": {name: _errors([item for item in held if item.table == name]) for name in sorted(rows)},
        },
        "intervals": {
            "level": LEVEL,
            "log_half_width": {name: round(value, 4) for name, value in half_widths(held).items()},
            "coverage_pct": round(100.0 * sum(inside for _, _, inside in covered) / len(covered), 2),
            "rows": len(covered),
            "per_pattern": _per_pattern(covered),
        },
    }  # fmt: skip


def _per_pattern(covered: list[tuple[Held, float, bool]]) -> dict[str, dict[str, float | int]]:
    """How often groups that were left out lie inside the half-width of the others, and that width."""
    found: dict[str, dict[str, float | int]] = {}
    for label in sorted({pattern(item.row.case) for item, _, _ in covered}):
        own = [(width, inside) for item, width, inside in covered if pattern(item.row.case) == label]
        found[label] = {
            "n": len(own),
            "coverage_pct": round(100.0 * sum(inside for _, inside in own) / len(own), 2),
            "log_half_width_median": round(median(width for width, _ in own), 4),
        }
    return found


def _errors(held: list[Held]) -> dict[str, float | int]:
    return errors([item.predicted_s for item in held], [item.row.iteration_s or 0.0 for item in held])


def _values(constants: Constants) -> dict[str, Any]:
    def entry(key: str) -> dict[str, Any]:
        value = {"value": float(f"{constants.value(key):.4g}")}
        if key not in PRIORS:
            return {**value, "basis": _UNFITTED}
        prior = PRIORS[key]
        return {**value, "basis": "fitted", "prior": prior.value, "log_spread": prior.spread}

    return {
        "global": {name: entry(f"shared.{name}") for name in GLOBAL_NAMES},
        "accelerators": {
            name: {part: entry(f"accelerators.{name}.{part}") for part in ACCELERATOR_NAMES}
            for name in constants.accelerators
        },
        "links": {name: entry(f"links.{name}") for name in constants.links},
    }
