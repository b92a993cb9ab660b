"""What the informers of a process report when scraped: how fresh and how big each cache is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from operators.runtime.informer import Informer

_GAUGES: tuple[tuple[str, str, Callable[[Informer[Any, Any]], float | None]], ...] = (
    ("trimtab_informer_objects", "Objects in the cache", lambda i: float(len(i.store))),
    ("trimtab_informer_synced", "1 once the first list is complete", lambda i: float(i.synced)),
    ("trimtab_informer_watch_age_seconds", "Age of the open watch", lambda i: i.health.watch_age_s),
    (
        "trimtab_informer_silence_seconds",
        "Time since the server last sent anything",
        lambda i: i.health.silence_s,
    ),
)
_COUNTERS: tuple[tuple[str, str, Callable[[Informer[Any, Any]], float]], ...] = (
    ("trimtab_informer_lists", "Complete lists", lambda i: i.health.lists_total),
    ("trimtab_informer_watches", "Watches opened", lambda i: i.health.watches_total),
    ("trimtab_informer_events", "Events and bookmarks received", lambda i: i.health.events_total),
    ("trimtab_informer_gone", "410: version too old", lambda i: i.health.gone_total),
    ("trimtab_informer_clean_ends", "Watches the server ended", lambda i: i.health.clean_ends_total),
    ("trimtab_informer_cuts", "Watches that were cut", lambda i: i.health.cuts_total),
    ("trimtab_informer_silences", "Watches given up for silence", lambda i: i.health.silent_total),
    ("trimtab_informer_errors", "Failed lists and watches", lambda i: i.health.errors_total),
    ("trimtab_informer_undecodable", "Objects left out of the cache", lambda i: i.health.undecodable_total),
    ("trimtab_informer_handler_errors", "Failed handlers", lambda i: i.handler_errors_total),
)


class InformerCollector(Collector):
    """Register once per process; informers are added as they are made."""

    def __init__(self) -> None:
        self.informers: list[Informer[Any, Any]] = []

    def collect(self) -> Iterable[Metric]:
        for name, text, read in _GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=["resource"])
            for informer in self.informers:
                value = read(informer)
                if value is not None:  # no watch open: a gap, not an age of 0
                    gauge.add_metric([informer.name], value)
            yield gauge
        for name, text, count in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=["resource"])
            for informer in self.informers:
                counter.add_metric([informer.name], count(informer))
            yield counter
