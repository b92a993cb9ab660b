"""What one engine did over a span, in a few numbers; unknown is None."""

from collections.abc import Sequence
from dataclasses import dataclass

from telemetry.collectors.engine import buckets
from telemetry.histogram import quantile
from telemetry.window import Slice


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Seconds. Linear inside a histogram's bucket; a value in the open last bucket shows as its lower bound."""

    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """Requests and KV cache as of the newest row, the rest over the span of the rows."""

    requests_running: float | None
    requests_waiting: float | None
    kv_cache_use_ratio: float | None
    prompt_tokens_per_s: float | None
    generation_tokens_per_s: float | None
    ttft_s: Quantiles
    inter_token_s: Quantiles


@dataclass(frozen=True, slots=True)
class Pooled:
    """One histogram of several engines taken together: observations made in the span, their mean and quantiles in
    seconds; None is unknown."""

    observations: float | None
    mean_s: float | None
    quantiles: Quantiles


def summarise(rows: Slice) -> Summary:
    percent = rows.latest("kv_cache_use_percent")
    return Summary(
        rows.latest("requests_running"),
        rows.latest("requests_waiting"),
        rows.latest("kv_cache_use_ratio") if percent is None else percent / 100,
        rows.rate_per_s("prompt_tokens"),
        rows.rate_per_s("generation_tokens"),
        _quantiles(rows, "ttft_s"),
        _quantiles(rows, "inter_token_s"),
    )


def _quantiles(rows: Slice, name: str) -> Quantiles:
    """Of the observations made in the span: from how much each cumulative bucket grew."""
    grown = {bound: rows.increase(column) for bound, column in buckets(rows.columns, name).items()}
    known = {bound: increase for bound, increase in grown.items() if increase is not None}
    return Quantiles(quantile(known, 0.5), quantile(known, 0.95))


def pooled(engines: Sequence[Slice], name: str) -> Pooled:
    """A histogram over all engines that report it. Quantiles are unknown where their buckets differ; the mean is not."""
    counted = [
        (count, total)
        for rows in engines
        if (count := rows.increase(f"{name}_count")) is not None and (total := rows.increase(f"{name}_sum")) is not None
    ]
    observations = sum(count for count, _ in counted) if counted else None
    mean_s = sum(total for _, total in counted) / observations if observations else None
    grown: dict[float, float] = {}
    layouts: set[frozenset[float]] = set()
    for rows in engines:
        known = {
            bound: increase
            for bound, column in buckets(rows.columns, name).items()
            if (increase := rows.increase(column)) is not None
        }
        if known:
            layouts.add(frozenset(known))
        for bound, increase in known.items():
            grown[bound] = grown.get(bound, 0.0) + increase
    if len(layouts) != 1:
        return Pooled(observations, mean_s, Quantiles(None, None))
    return Pooled(observations, mean_s, Quantiles(quantile(grown, 0.5), quantile(grown, 0.95)))
