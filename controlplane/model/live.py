"""Live figures of engines: cumulative counters of one pod at one moment."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Protocol

# Thirty million years of seconds, or of requests: no engine's counter stands above it.
_MOST = 1e15


@dataclass(frozen=True, slots=True)
class EnginePod:
    """A pod that answers requests, and how to reach it."""

    uid: str
    name: str
    namespace: str
    ip: str
    engine: str


@dataclass(frozen=True, slots=True)
class EngineCounters:
    """Since the engine's start. None: its page does not say. `ended` and `failed` are requests by how they ended;
    `in_flight` those that have not."""

    ttft_sum_s: float | None = None
    ttft_count: float | None = None
    tpot_sum_s: float | None = None
    tpot_count: float | None = None
    ended: float | None = None
    failed: float | None = None
    in_flight: float | None = None

    @property
    def possible(self) -> bool:
        """Whether these can be counters: a page may hold NaN, infinity, or anything else that a float can."""
        return all(value is None or 0 <= value <= _MOST for value in astuple(self))

    @property
    def unanswered(self) -> float | None:
        """Requests in it that still wait for their first token, at least: some that failed may have had theirs."""
        if self.in_flight is None or self.ended is None or self.failed is None or self.ttft_count is None:
            return None
        return max(0.0, self.in_flight + self.ended - self.failed - self.ttft_count)


@dataclass(frozen=True, slots=True)
class LiveReading:
    """Counters by pod uid, all read at about `time_s` (Unix time); pods that did not answer are absent."""

    time_s: float
    counters: Mapping[str, EngineCounters] = field(default_factory=dict)


class LiveMetrics(Protocol):
    """Reads engine pages. The composition root fills it in."""

    async def read(self, pods: Sequence[EnginePod]) -> Mapping[str, EngineCounters]:
        """By pod uid; pods that do not answer in time, or not in Prometheus text, are absent. Never raises."""
        ...

    async def close(self) -> None:
        """End what is open."""
        ...
