"""An answer of the predictor as text for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_STATISTICS = ("mean", "p50", "p90", "p95", "p99")
_NUMBERS = (
    ("requests_per_s", "requests/s"),
    ("tokens_per_s", "output tokens/s"),
    ("tokens_per_s_per_gpu", "output tokens/s per accelerator"),
    ("accelerators", "accelerators"),
    ("kv_fraction_peak", "KV cache in use at most, share"),
    ("preemptions", "preemptions"),
    ("power_w", "power, W"),
    ("joules_per_output_token", "energy, J per output token"),
    ("cost_per_million_output_tokens", "cost per million output tokens"),
)


def answer_table(answer: Mapping[str, Any]) -> str:
    """Latencies, then the rest, then how they came about."""
    rows: list[Sequence[str]] = [("ms", *_STATISTICS, "mean is within (90 %)")]
    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
        found = answer[name]
        bounds = "unknown" if found.get("lo") is None else f"{_number(found['lo'])} to {_number(found['hi'])}"
        rows.append((name.removesuffix("_ms").upper(), *(_number(found.get(word)) for word in _STATISTICS), bounds))
    lines = aligned(rows)
    lines.append("")
    currency = answer.get("currency")
    for name, label in _NUMBERS:
        if name in answer:
            unit = f" {currency}" if name.startswith("cost") and currency and answer[name] is not None else ""
            lines.append(f"{label}: {_number(answer[name])}{unit}")
    provenance = answer.get("provenance") or {}
    lines += ["", f"tier: {answer['tier']}", f"source: {provenance.get('source')}"]
    lines += [f"note: {note}" for note in provenance.get("notes", ())]
    lines += [f"warning: {warning}" for warning in answer.get("warnings", ())]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, two spaces apart; the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _number(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
