"""What an engine's own metrics pages say about a load, as a measured run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from controlplane.catalog import Engine, load
from controlplane.model.errors import InvalidSpec
from telemetry.collectors.engine import MAX_PAGE_BYTES, BadMetricsPage, buckets, parse
from telemetry.histogram import quantile
from tuner.serving.calibration.measurement import Measurement, read_measurement, with_case
from tuner.serving.resolve import find_engine

_DIGITS = 5  # more than any measurement repeats
_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def measurement_of_pages(after: Path, before: Path | None, case: Mapping[str, Any]) -> Measurement:
    """The load between two scrapes of an engine's metrics page (without `before`: since it started). `case` says what
    a page does not know: model, system, backend, degrees and arrivals. Raises InvalidSpec or UnknownName."""
    if "backend" not in case:
        raise InvalidSpec("is needed to read a metrics page", field="backend", hint="add --backend")
    names = page_names(load().engine(find_engine(str(case["backend"]))))
    late, early = _page(after, names), {} if before is None else _page(before, names)
    found = measured_between(early, late, str(after))
    return read_measurement({**with_case(case, found["load"]), "measured": found["measured"]}, after.name)


def measured_between(early: Mapping[str, float], late: Mapping[str, float], where: str) -> dict[str, Any]:
    """`load` (requests and their lengths) and `measured` latencies, in the words of the batch interface, between two
    samples under our names. `where`: what to call them in an error. Raises InvalidSpec."""
    check_same_engine(early, late, where)
    grown = {column: value - early.get(column, 0.0) for column, value in late.items()}
    ttft = _histogram(grown, "ttft", where, _PERCENTILES)
    # Gaps between tokens average to the time per token, but spread more than requests do: only their mean is comparable.
    per_request = bool(grown.get("tpot_count"))
    tpot = _histogram(grown, "tpot" if per_request else "inter_token", where, _PERCENTILES if per_request else {})
    requests = int(grown["ttft_count"])
    load = {
        "requests": requests,
        "isl": _per_request(grown, "prompt_tokens", requests),
        "osl": _per_request(grown, "generation_tokens", requests),
    }
    return {"load": load, "measured": {"ttft_ms": ttft, "tpot_ms": tpot}}


def check_same_engine(early: Mapping[str, float], late: Mapping[str, float], where: str) -> None:
    """Raises InvalidSpec where a counter fell or went: what one engine has counted since its start only grows."""
    counters = [column for column in early if column.endswith(("_count", "_tokens"))]
    if any(late.get(column, 0.0) < early[column] for column in counters):
        raise InvalidSpec("counters fell between the pages: the engine was restarted", field=where)


def page_names(engine: Engine) -> dict[str, str]:
    """Our name -> the engine's, of the series that a measurement is made of."""
    metrics = engine.metrics
    known = {
        "ttft": metrics.ttft,
        "tpot": metrics.tpot,
        "inter_token": metrics.inter_token,
        "prompt_tokens": metrics.prompt_tokens,
        "generation_tokens": metrics.generation_tokens,
    }
    return {ours: theirs for ours, theirs in known.items() if theirs is not None}


def _page(path: Path, names: Mapping[str, str]) -> dict[str, float]:
    try:
        with path.open("rb") as file:
            return parse(file.read(MAX_PAGE_BYTES + 1), names)
    except (OSError, BadMetricsPage) as error:
        raise InvalidSpec(f"cannot be read: {error}", field=str(path)) from error


def _histogram(grown: Mapping[str, float], name: str, where: str, percentiles: Mapping[str, float]) -> dict[str, float]:
    count, total = grown.get(f"{name}_count", 0.0), grown.get(f"{name}_sum", 0.0)
    if count < 1 or total <= 0:
        raise InvalidSpec(f"no {name} was observed", field=where, hint="scrape the page after the load has run")
    counts = {bound: grown[column] for bound, column in buckets(grown, name).items()}
    found = {"mean": _short(total / count * 1e3)}
    top = max((bound for bound in counts if bound != float("inf")), default=0.0)
    for word, share in percentiles.items():
        value = quantile(counts, share) if counts else None
        if value is not None and 0 < value < top:  # in the open last bucket only its lower bound is known
            found[word] = _short(value * 1e3)
    return found


def _short(value_ms: float) -> float:
    return float(f"{value_ms:.{_DIGITS}g}")


def _per_request(grown: Mapping[str, float], name: str, requests: int) -> int | None:
    tokens = grown.get(name, 0.0)
    return max(1, round(tokens / requests)) if tokens > 0 and requests else None
