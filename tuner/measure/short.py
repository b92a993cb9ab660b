"""A short run: what the first requests of a trial say of all the others, and whether it cannot come near the best.

They are the first ones of its first run, so that a trial that goes on has lost nothing. Whoever stops at a bad moment of
the machine would cut good settings; so the requests are looked at as they would have been in a process that is as much
faster as processes of one setting are apart (`Bar.pace`), and the noise between them is that between fifths of the run:
neighbours share a queue, fifths hardly. Only what stays out of reach then ends a trial.

Tails are seen too short by few requests, and a queue that grows has hardly begun: both flatter the setting, so that it
goes on. What a share of the requests cannot say is not looked at: energy, counts, the interval of the attainment.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from controlplane.model.tuning import Bar, Limit
from controlplane.model.tuning_job import CommandTarget, TuningSpec
from tuner.intervals import t_beyond
from tuner.measure.definitions import Metrics, wilson
from tuner.measure.loadgen.early import Early

if TYPE_CHECKING:
    from tuner.measure.loadgen.plan import Rows

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.99  # one-sided, of each step: within the run, and between processes
SHARE = 0.25
# Below, a 90th percentile has fewer than two requests beyond it. Each client has sent two at least.
REQUESTS_LEAST = 20
# More say nothing that these do not, and have to be told through a pipe.
REQUESTS_MOST = 1000
# A look at more of a run than this saves too little to be worth an error.
_SHARE_MOST = 0.75
# Closer to the best than this is near it: it goes on.
NEAR = 0.05
_FIFTHS = 5
_LATENCY = re.compile(r"^(ttft|tpot|e2e)_(mean|p50|p90|p95|p99)_ms$")
_RATES = ("requests_per_s", "output_tokens_per_s", "prompt_tokens_per_s", "goodput_per_s")
_SHARES = ("goodput_per_s", "attainment")


def short_requests(spec: TuningSpec) -> int | None:
    """Requests of a short run of this job; None: its trials have none (commands, too few requests, nothing that a few
    requests could say)."""
    how = spec.measuring
    share = SHARE if how.short_share is None else how.short_share
    if isinstance(spec.target, CommandTarget) or share == 0 or not _says_something(spec):
        return None
    clients = spec.load.concurrency or 0 if spec.load.arrivals == "closed" else 0
    count = max(min(max(math.ceil(share * how.requests), REQUESTS_LEAST), REQUESTS_MOST), 2 * clients)
    return count if count <= _SHARE_MOST * how.requests else None


def short_run(spec: TuningSpec, bar: Bar | None, known: Metrics) -> ShortRun | None:
    """The look at a trial's first requests; None: it is measured in full. `known`: what was measured before the load."""
    requests = short_requests(spec)
    return None if bar is None or requests is None else ShortRun(spec, bar, known, requests)


def judged(metric: str) -> bool:
    """Whether a few requests bound it."""
    return metric in _RATES or metric in _SHARES or _LATENCY.match(metric) is not None


def _says_something(spec: TuningSpec) -> bool:
    named = [one.metric for one in spec.limits]
    named += [one.metric for one in spec.objectives] if len(spec.objectives) == 1 else []
    return any(judged(metric) for metric in named)


@dataclass(slots=True)
class ShortRun:
    """`why`: what is out of reach, once something is."""

    spec: TuningSpec
    bar: Bar
    known: Metrics
    requests: int
    why: str = ""

    def enough(self, early: Sequence[Early], rows: Rows) -> bool:
        """Whether the trial is to end here. `rows`: all requests of the run, warm-up among them, by number."""
        seen = _Seen(self.spec, early, rows, self.bar.pace)
        self.why = self._best_out_of_reach(seen) or self._limit_broken(seen)
        return bool(self.why)

    def _best_out_of_reach(self, seen: _Seen) -> str:
        best, objective = self.bar.value, self.spec.objectives[0]
        if best is None or not judged(objective.metric):
            return ""
        up = objective.direction == "maximize"
        end = seen.end(objective.metric, most=up)
        near = best * (1 - NEAR if up else 1 + NEAR)
        if end is None or (end >= near if up else end <= near):
            return ""
        return f"{objective.metric} {_bound(end, most=up)}, the best so far is {best:.4g}"

    def _limit_broken(self, seen: _Seen) -> str:
        for limit in self.spec.limits:
            most = limit.at_least is not None
            known = self.known.get(limit.metric)
            end = known if known is not None else seen.end(limit.metric, most=most) if judged(limit.metric) else None
            if end is not None and _beyond(end, limit):
                said = f"is {end:.4g}" if known is not None else _bound(end, most=most)
                word = f"at least {limit.at_least:g}" if most else f"at most {limit.at_most:g}"
                return f"{limit.metric} {said}, and has to be {word}"
        return ""


@dataclass(slots=True)
class _Seen:
    """The first measured requests, and what they would have been in a process of another pace."""

    spec: TuningSpec
    early: Sequence[Early]
    rows: Rows
    pace: float
    _views: dict[tuple[float, bool], _View] = field(default_factory=dict)

    def end(self, metric: str, *, most: bool) -> float | None:
        """The most or the least that it may be over all requests, in a process of any pace. None: cannot be said."""
        rate = metric in _RATES or metric in _SHARES
        pace = self.pace if most == rate else 1 / self.pace
        # The least of a time and the most of a rate are of one pace, and not of one offered rate.
        if (pace, most) not in self._views:
            self._views[pace, most] = _view(self.spec, self.early, self.rows, pace, most=most)
        view = self._views[pace, most]
        everyone = np.arange(len(self.early))
        whole = view.value(metric, everyone)
        parts = [view.value(metric, part) for part in np.array_split(everyone, _FIFTHS)]
        known = [part for part in parts if part is not None]
        if whole is None or len(known) < _FIFTHS:
            return None
        half = t_beyond(2 * (1 - CONFIDENCE), _FIFTHS - 1) * float(np.std(known, ddof=1)) / math.sqrt(_FIFTHS)
        end = whole + half if most else max(0.0, whole - half)
        if metric in _SHARES:  # where all or none are good, fifths are alike by chance
            good = int(view.good.sum())
            low, high = wilson(good, len(everyone), NormalDist().inv_cdf(CONFIDENCE))
            flow = view.flow(everyone) if metric == "goodput_per_s" else 1.0
            if flow is None:
                return None
            end = max(end, flow * high) if most else min(end, flow * low)
        return end


@dataclass(frozen=True, slots=True)
class _View:
    """By request: seconds (NaN where it failed), tokens, and whether it keeps the SLO. `offered_per_s`: of an open loop."""

    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats
    prompt: Floats
    output: Floats
    good: npt.NDArray[np.bool_]
    clients: int | None
    offered_per_s: float

    def flow(self, part: npt.NDArray[np.int64]) -> float | None:
        """Requests a second: what an open loop offers; of a closed one what its clients get through (Little's law), which
        a run's end without new requests does not lower."""
        if self.clients is None:
            return self.offered_per_s
        took = _known(self.e2e_s[part])
        mean = float(took.mean()) if took.size else 0.0
        return self.clients / mean if mean > 0 else None

    def value(self, metric: str, part: npt.NDArray[np.int64]) -> float | None:
        if metric == "attainment":
            return float(self.good[part].mean())
        if metric in _RATES:
            if metric == "goodput_per_s" and not self.good[part].any():
                return 0.0
            flow = self.flow(part)
            if flow is None:
                return None
            if metric == "goodput_per_s":
                return flow * float(self.good[part].mean())
            tokens = {"output_tokens_per_s": self.output, "prompt_tokens_per_s": self.prompt}.get(metric)
            return flow if tokens is None else flow * float(tokens[part].mean())
        found = _LATENCY.match(metric)
        if found is None:
            return None
        values = _known({"ttft": self.ttft_s, "tpot": self.tpot_s, "e2e": self.e2e_s}[found[1]][part])
        if not values.size:
            return None
        return 1e3 * float(values.mean() if found[2] == "mean" else np.percentile(values, int(found[2][1:])))


def _view(spec: TuningSpec, early: Sequence[Early], rows: Rows, pace: float, *, most: bool) -> _View:
    asked = np.array([rows[one.number] for one in early], np.float64).reshape(-1, 3)
    at, first, last = (
        np.array([math.nan if value is None or one.failed else value for one, value in column], np.float64)
        for column in (
            [(one, one.intended_s) for one in early],
            [(one, one.first_s) for one in early],
            [(one, one.last_s) for one in early],
        )
    )
    closed = spec.load.arrivals == "closed"
    ttft = (first - at) / pace if closed else _queued(at, first, pace)
    e2e = ttft + (last - first) / pace
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = np.where(asked[:, 2] > 1, (last - first) / (asked[:, 2] - 1) / pace, math.nan)
    good = ~np.isnan(e2e)
    if spec.slo is not None:
        for values, limit in ((ttft, spec.slo.ttft_ms), (tpot, spec.slo.tpot_ms), (e2e, spec.slo.e2e_ms)):
            if limit is not None:
                good &= np.isnan(values) | (values * 1e3 <= limit)
    return _View(
        ttft, tpot, e2e, asked[:, 1], asked[:, 2], good,
        spec.load.concurrency if closed else None,
        0.0 if closed else _offered(spec, rows[early[0].number :], most=most),
    )  # fmt: skip


def _queued(at: Floats, first: Floats, pace: float) -> Floats:
    """Times to first token of an open loop in a process of another pace: requests come when they came, each takes what it
    took since the one before it was under way, and waits less the faster that is (Lindley's recursion)."""
    out, before, before_now = np.full(len(at), math.nan), -math.inf, -math.inf
    for i in np.argsort(np.where(np.isnan(first), np.inf, first), kind="stable"):
        if np.isnan(first[i]):
            break
        took = first[i] - max(at[i], before)
        now = max(at[i], before_now) + took / pace
        out[i], before, before_now = now - at[i], first[i], now
    return out


def _offered(spec: TuningSpec, rows: Rows, *, most: bool) -> float:
    """Requests a second that an open loop sends, this one or another drawn like it. `rows`: the measured ones, for the
    warm-up of a trace may be quieter; counted as the metric counts them."""
    span_s = rows[-1][0] - rows[0][0]
    own = len(rows) / span_s if span_s > 0 else math.inf
    stated = spec.load.rate_per_second
    if stated is None:
        return own
    cv = 1.0 if spec.load.arrivals == "poisson" else spec.load.cv
    noise = NormalDist().inv_cdf(CONFIDENCE) * cv / math.sqrt(spec.measuring.requests)
    return max(own, stated) * (1 + noise) if most else min(own, stated) * max(0.0, 1 - noise)


def _known(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _beyond(end: float, limit: Limit) -> bool:
    if limit.at_most is not None:
        return end > limit.at_most
    return limit.at_least is not None and end < limit.at_least


def _bound(end: float, *, most: bool) -> str:
    return f"is {end:.4g} {'at most' if most else 'at least'} ({CONFIDENCE:.0%} sure)"
