"""What a user measured: the question it answers, and the latencies that came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.model.errors import InvalidSpec
from tuner.serving.fields import Fields
from tuner.serving.question import FIELDS, Question, parse_question

STATISTICS = ("mean", "p50", "p90", "p95", "p99")
MAX_LATENCY_MS = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """`ttft_ms` and `tpot_ms` map statistics (mean, p50, ...) to ms; each has at least one. `source` names the file."""

    question: Question
    ttft_ms: Mapping[str, float]
    tpot_ms: Mapping[str, float]
    source: str


def read_measurement(data: object, source: str) -> Measurement:
    """From one object: the fields of the batch interface and `measured {ttft_ms {mean, ...}, tpot_ms {mean, ...}}`.
    Raises InvalidSpec or UnknownName with the field at fault."""
    fields = Fields(data, FIELDS | {"measured"})
    measured = fields.inside("measured", ("ttft_ms", "tpot_ms")) or fields.need("measured")
    question = {name: fields.raw(name) for name in FIELDS if fields.has(name)}
    return Measurement(
        question=parse_question(question),
        ttft_ms=_statistics(measured, "ttft_ms"),
        tpot_ms=_statistics(measured, "tpot_ms"),
        source=source,
    )


def with_case(case: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What a log says, with the user's own words about the case on top: a log names no accelerator."""
    return {**{name: value for name, value in found.items() if value is not None}, **case}


def _statistics(measured: Fields, name: str) -> dict[str, float]:
    inside = measured.inside(name, STATISTICS) or measured.need(name)
    found = {word: inside.number(word, 0, MAX_LATENCY_MS, open_low=True) for word in STATISTICS}
    known = {word: value for word, value in found.items() if value is not None}
    if not known:
        raise InvalidSpec("names no statistic", field=measured.at(name), limit=", ".join(STATISTICS))
    return known
