"""What an engine counts about itself, before and after a run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.catalog.engines import Metrics
from tuner.measure.http import get

_TIMEOUT_S = 10.0
_LINE = re.compile(r"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{.*\})?\s+(\S+)")


class NoCounters(Exception):
    """The engine does not show them. The message says why."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the engine says of one run. Means are None where it saw nothing or does not say."""

    first_tokens: float | None
    ttft_mean_s: float | None
    itl_mean_s: float | None
    e2e_mean_s: float | None
    queue_mean_s: float | None
    output_tokens: float | None
    preemptions: float | None = None
    steps: float | None = None
    restarts: float | None = None


def parse(text: str) -> dict[str, float]:
    """Prometheus text: sample name -> sum over its labels. Lines that are none are passed over."""
    out: dict[str, float] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        try:
            value = float(match[2])
        except ValueError:
            continue
        if math.isfinite(value):
            out[match[1]] = out.get(match[1], 0.0) + value
    return out


def read(host: str, port: int, path: str) -> dict[str, float]:
    """Raises NoCounters."""
    try:
        status, body = get(host, port, path, timeout_s=_TIMEOUT_S)
    except OSError as error:
        raise NoCounters(f"GET {path}: {error}") from error
    if status != 200:
        raise NoCounters(f"GET {path}: HTTP {status}")
    return parse(body.decode("utf-8", "replace"))


def served(
    before: Mapping[str, float],
    after: Mapping[str, float],
    names: Metrics,
    steps: str | None = None,
    restarts: str | None = None,
) -> Served:
    """The difference. A counter that went back (the engine began anew) is None."""

    def grown(name: str | None) -> float | None:
        if name is None or name not in after:
            return None
        value = after[name] - before.get(name, 0.0)
        return value if value >= 0 else None

    def mean(name: str | None) -> float | None:
        total = grown(f"{name}_sum" if name else None)
        count = grown(f"{name}_count" if name else None)
        return total / count if total is not None and count else None

    return Served(
        first_tokens=grown(f"{names.ttft}_count" if names.ttft else None),
        ttft_mean_s=mean(names.ttft),
        itl_mean_s=mean(names.inter_token),
        e2e_mean_s=mean(names.e2e),
        queue_mean_s=mean(names.queue_time),
        output_tokens=grown(names.generation_tokens),
        preemptions=grown(names.preemptions),
        steps=grown(steps),
        restarts=grown(restarts),
    )
