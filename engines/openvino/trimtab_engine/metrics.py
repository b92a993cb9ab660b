"""Counters and histograms of the server in Prometheus' text format; the names are listed in the README.

Hand-made because a token's cost counts: recording a latency is one bisect and two additions.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

PREFIX: Final = "trimtab_engine_"
# A tiny model on two cores needs 15 ms to the first token, an overloaded one minutes: one and two per decade and half.
TTFT_BUCKETS_S: Final = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
ITL_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5, 5)
E2E_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 60, 120, 240, 480, 960, 1920)

OUTCOMES: Final = ("completed", "cancelled", "failed", "rejected")
FINISH_REASONS: Final = ("stop", "length")
REJECT_REASONS: Final = (
    "bad_request",
    "unauthorized",
    "queue_full",
    "not_ready",
    "draining",
)


class Histogram:
    """Cumulative buckets of seconds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `times` observations of `value`."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class Metrics:
    """Every figure of one server process. Gauges are plain attributes, set by the owner."""

    def __init__(self) -> None:
        self.ttft = Histogram(TTFT_BUCKETS_S)
        self.inter_token = Histogram(ITL_BUCKETS_S)
        self.end_to_end = Histogram(E2E_BUCKETS_S)
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.finish_reasons = dict.fromkeys(FINISH_REASONS, 0)
        self.rejections = dict.fromkeys(REJECT_REASONS, 0)
        self.engine_restarts = 0
        self.engine_steps = 0
        self.running = 0
        self.waiting = 0
        self.kv_usage = 0.0
        self.kv_bytes = 0
        self.engine_up = False
        self.draining = False
        self.connections = 0

    def reject(self, reason: str) -> None:
        """Count a request that was refused before the engine saw it."""
        self.outcomes["rejected"] += 1
        self.rejections[reason] += 1

    def render(self, model: str) -> bytes:
        """The exposition. `model` becomes the label `model_name`."""
        out = _Exposition(model)
        out.gauge("requests_running", "Requests that took part in the last engine step.", self.running)
        out.gauge("requests_waiting", "Accepted requests that did not take part in the last engine step.", self.waiting)
        out.gauge("kv_cache_usage_ratio", "Used share of the KV cache, 0 to 1.", self.kv_usage)
        out.gauge("kv_cache_size_bytes", "Size of the KV cache in bytes.", self.kv_bytes)
        out.gauge("up", "1 while the engine process is loaded and warm, else 0.", int(self.engine_up))
        out.gauge("draining", "1 after SIGTERM, else 0.", int(self.draining))
        out.gauge("http_connections", "Open client connections.", self.connections)
        out.counter("prompt_tokens_total", "Prompt tokens of requests that produced a first token.", self.prompt_tokens)
        out.counter("generation_tokens_total", "Generated tokens.", self.generation_tokens)
        out.counter("steps_total", "Engine steps.", self.engine_steps)
        out.counter("restarts_total", "Restarts of the engine process after it ended unasked.", self.engine_restarts)
        out.counters("requests_total", "Requests by outcome.", "outcome", self.outcomes)
        out.counters("request_finish_total", "Completed requests by finish reason.", "reason", self.finish_reasons)
        out.counters("requests_rejected_total", "Rejected requests by reason.", "reason", self.rejections)
        out.histogram(
            "time_to_first_token_seconds", "From the complete HTTP request to its first token, seconds.", self.ttft
        )
        out.histogram(
            "time_per_output_token_seconds", "Gap between consecutive tokens of a request, seconds.", self.inter_token
        )
        out.histogram(
            "request_latency_seconds", "From the complete HTTP request to its last token, seconds.", self.end_to_end
        )
        return out.text().encode()


class _Exposition:
    def __init__(self, model: str) -> None:
        escaped = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        self._label = f'model_name="{escaped}"'
        self._lines: list[str] = []

    def _head(self, name: str, text: str, kind: str) -> str:
        full = PREFIX + name
        self._lines += [f"# HELP {full} {text}", f"# TYPE {full} {kind}"]
        return full

    def gauge(self, name: str, text: str, value: float) -> None:
        self._lines.append(f"{self._head(name, text, 'gauge')}{{{self._label}}} {value}")

    def counter(self, name: str, text: str, value: int) -> None:
        self._lines.append(f"{self._head(name, text, 'counter')}{{{self._label}}} {value}")

    def counters(self, name: str, text: str, label: str, values: dict[str, int]) -> None:
        full = self._head(name, text, "counter")
        self._lines += [f'{full}{{{self._label},{label}="{key}"}} {value}' for key, value in values.items()]

    def histogram(self, name: str, text: str, histogram: Histogram) -> None:
        full = self._head(name, text, "histogram")
        count = 0
        for bound, amount in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
            count += amount
            self._lines.append(f'{full}_bucket{{{self._label},le="{bound}"}} {count}')
        self._lines.append(f"{full}_sum{{{self._label}}} {histogram.total}")
        self._lines.append(f"{full}_count{{{self._label}}} {count}")

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"
