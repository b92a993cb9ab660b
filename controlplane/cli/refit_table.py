"""What a refit changed, as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from controlplane.cli.answer_table import aligned
from tuner.serving.calibration.parameters import digest_of
from tuner.serving.calibration.refit import Refit
from tuner.serving.calibration.score import Score


def refit_dict(found: Refit, written: Path | None) -> dict[str, Any]:
    """Scores before and after, changes by engine, and where the calibration was written (null: nowhere)."""

    def scores(items: Mapping[str, Score] | None) -> dict[str, Any] | None:
        return None if items is None else {metric: asdict(score) for metric, score in items.items()}

    return {
        "name": found.calibration.name,
        "digest": digest_of(found.calibration),
        "written": None if written is None else str(written),
        "before": scores(found.before),
        "after": scores(found.after),
        "left_out": scores(found.left_out),
        "worse": found.worse,
        "harmful": found.harmful,
        "groups": found.groups,
        "unproven": list(found.unproven),
    }


def refit_table(found: Refit, written: Path | None) -> str:
    """Before, after, and on runs the fit had not seen."""
    rows: list[Sequence[str]] = [("median error %", "runs", "TTFT", "TPOT", "TTFT bias", "TPOT bias")]
    for name, scores in (("before", found.before), ("after", found.after), ("loads left out", found.left_out)):
        if scores is not None:
            ttft, tpot = scores["ttft"], scores["tpot"]
            numbers = (ttft.median_pct, tpot.median_pct, ttft.bias, tpot.bias)
            rows.append((name, str(ttft.rows), *("-" if value is None else f"{value:.3g}" for value in numbers)))
    lines = aligned(rows)
    if found.left_out is None:
        lines.append("too few different loads to leave some out: how it does on new loads is unknown")
    lines.append("")
    for group, values in found.groups.items():
        changes = ", ".join(
            f"{knob} {value:+.1f} ms" if knob.endswith("_ms") else f"{knob} {value:+.3f} (ln)"
            for knob, value in values.items()
        )
        lines.append(f"{group}: {changes}")
    for group in found.unproven:
        why = "of the loads left out one lay outside the narrow ones" if found.left_out else "no load could be left out"
        lines.append(f"intervals of {group} stay wide: {why}")
    lines.append("")
    if found.worse:
        lines.append(f"worse than before: {'; '.join(found.worse)}")
    if written is not None:
        lines.append(f"written to {written} ({digest_of(found.calibration)})")
    elif found.harmful:
        lines.append(
            "nothing written: predictions would get worse; measure more loads, or write it all the same with --force"
        )
    else:
        lines.append("nothing written (--dry-run)")
    return "\n".join(lines)
