"""Scores as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.cli.answer_table import aligned

_HEAD = ("", "rows", "answered", "MAPE %", "median %", "p90 %", "bias", "within 20 %", "in interval %", "half-width %")
_DIRECTIONS = ("tier", "backend", "system", "model", "held")
_MOST_REASONS = 12


def accuracy_table(found: Mapping[str, Any]) -> str:
    """One table for each mode and metric: all rows, each measurement once, then every direction."""
    lines = [f"{found['data']} ({found['split']} rows, sha256 {found['data_sha256'][:12]})"]
    lines += _calibration(found.get("calibration"))
    for mode, metrics in found["metrics"].items():
        for metric, report in metrics.items():
            lines += ["", f"{metric.upper()}, {mode}"]
            rows = [_HEAD, _row("all", report["overall"]), _row("each measurement once", report["distinct"])]
            for direction in _DIRECTIONS:
                scores = report["by"][direction]
                if len(scores) > 1 or direction == "tier":
                    rows += [_row(f"{direction} {name}", score) for name, score in scores.items()]
            baseline = found.get("baseline", {}).get(metric)
            if baseline and mode == "agg":
                rows.append(_row("aiconfigurator, all it answers", baseline["all"]))
                rows.append(_row("aiconfigurator, common rows", baseline["common"]))
                rows.append(_row("ours, common rows", baseline["ours_common"]))
            lines += aligned(rows)
            lines.append(f"median of group medians (backend, system, model): {_number(report['macro_median_pct'])} %")
            lines.append(f"median with misses as infinite: {_number(report['overall']['median_missed_pct'])} %")
            interval = report["overall"]["interval"]
            if interval:
                lines.append(
                    f"intervals: {_number(interval['inside_pct'])} % of {interval['n']} inside "
                    f"(95 %: {_number(interval['low_pct'])} to {_number(interval['high_pct'])} %)"
                )
        reasons = found["misses"].get(mode, {})
        if reasons:
            lines += ["", f"{sum(reasons.values())} {mode} rows without an answer:"]
            lines += [f"  {count} x {reason}" for reason, count in list(reasons.items())[:_MOST_REASONS]]
            if len(reasons) > _MOST_REASONS:
                lines.append(f"  and {len(reasons) - _MOST_REASONS} other reasons (-o json lists all)")
    return "\n".join(lines)


def _calibration(about: Mapping[str, Any] | None) -> list[str]:
    if about is None:
        return ["no correction (--raw)"]
    lines = [f"calibration {about['name']}"]
    if about["fitted_on_these_rows"]:
        lines.append("fitted on these rows: on configurations it has not seen, errors are larger")
    if about["held_out_groups"]:
        checked = ", ".join(f"{name} {_number(value)}" for name, value in sorted(about["held_out_groups"].items()))
        lines.append(f"on groups left out of the fit: {checked}")
    return lines


def _row(name: str, score: Mapping[str, Any]) -> tuple[str, ...]:
    interval = score["interval"] or {}
    values = (
        score["mape_pct"],
        score["median_pct"],
        score["p90_pct"],
        score["bias"],
        score["within_20_pct"],
        interval.get("inside_pct"),
        interval.get("half_width_median_pct"),
    )
    return (name, str(score["rows"]), str(score["answered"]), *(_number(value) for value in values))


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
