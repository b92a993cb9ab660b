"""One run of a job's own load, replayed with given iteration costs: what a client would have measured.

Figures are those of `tuner.measure.definitions`, computed over arrays. Requests, warm-up and seeds are a trial's own, so a
burst that a trial met is in the replay of it, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from controlplane.model.errors import Unsupported
from controlplane.model.tuning import Setting
from controlplane.model.tuning_job import EngineTarget, RequestSlo, TuningSpec
from tuner.measure.loadgen.plan import requests_of, run_seed
from tuner.search.fitted_costs import table_of
from tuner.search.gaussian import cumulative
from tuner.serving.replay.fleet import Fleet, Replica
from tuner.serving.replay.requests import Requests
from tuner.serving.replay.result import ReplicaUse
from tuner.serving.replay.rules import rules_with_knobs

Floats = npt.NDArray[np.float64]

# Requests of one replay, warm-up included, at most: percentiles of more would not move where to look.
_REQUESTS_MAX = 256
# Of prompts of a million tokens fewer are enough: each step of the budget is an iteration, and an ask waits for them all.
_PROMPT_TOKENS_MAX, _REQUESTS_LEAST = 1 << 23, 48
# Trials whose requests are kept; those of more are drawn again.
_DRAWN_MOST = 128
# Between a client's send and the engine's queue: one that is sent as an iteration ends misses the next.
_REQUEST_MS = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Requests that came whole, warm-up left out; seconds. `per_token_s` is NaN for one token. `shares`: of the engine's
    busy time, by cost. `asked`: requests, whole or not."""

    intended_s: Floats
    first_s: Floats
    per_token_s: Floats
    whole_s: Floats
    prompt_tokens: int
    output_tokens: int
    asked: int
    open_loop: bool
    shares: Floats

    def span_s(self, pace: float = 1.0) -> float:
        """First request meant to be sent to last token, with all times of the engine `pace` times as long."""
        if not self.open_loop:
            return float((self.intended_s + self.whole_s).max() - self.intended_s.min()) * pace
        return float((self.intended_s + self.whole_s * pace).max() - self.intended_s.min())

    def figure(self, name: str, slo: RequestSlo | None, pace: float = 1.0, blur: float = 0.0) -> float | None:
        """A metric by its name; None for what a replay does not know. `blur`: deviation of the logarithm of a request's
        times: requests near a limit then count in part."""
        if name in _RATES:
            counted = {"requests_per_s": self.whole_s.size, "output_tokens_per_s": self.output_tokens}
            return counted.get(name, self.prompt_tokens) / self.span_s(pace)
        if name in ("goodput_per_s", "attainment"):
            if slo is None:
                return None
            good = float(self._kept(slo, pace, blur).sum())
            return good / self.span_s(pace) if name == "goodput_per_s" else good / self.asked
        what, _, rest = name.partition("_")
        values = {"ttft": self.first_s, "tpot": self.per_token_s, "e2e": self.whole_s}.get(what)
        if values is None or rest not in _OF_TIMES:
            return None
        known = values[~np.isnan(values)]
        if not known.size:
            return None
        percent = _OF_TIMES[rest]
        value = known.mean() if percent is None else percentile(known, percent)
        return float(value) * 1e3 * pace

    def _kept(self, slo: RequestSlo, pace: float, blur: float) -> Floats:
        """Of each request how likely it keeps every limit."""
        room = np.full(self.first_s.size, np.inf)
        limits = ((self.first_s, slo.ttft_ms), (self.per_token_s, slo.tpot_ms), (self.whole_s, slo.e2e_ms))
        for times_s, limit_ms in limits:
            if limit_ms is not None:
                left = np.log(limit_ms / np.maximum(times_s * (1e3 * pace), 1e-9))
                room = np.minimum(room, np.where(np.isnan(left), np.inf, left))
        if blur <= 0:
            return np.asarray(room >= 0, np.float64)
        return cumulative(np.clip(room / blur, -9.0, 9.0))


_RATES = frozenset({"requests_per_s", "output_tokens_per_s", "prompt_tokens_per_s"})
_OF_TIMES: Mapping[str, float | None] = {
    "mean_ms": None, "p50_ms": 50.0, "p90_ms": 90.0, "p95_ms": 95.0, "p99_ms": 99.0,
}  # fmt: skip


def known_figure(name: str) -> bool:
    """Whether a replay knows this metric."""
    what, _, rest = name.partition("_")
    by_time = what in ("ttft", "tpot", "e2e") and rest in _OF_TIMES
    return name in _RATES or name in ("goodput_per_s", "attainment") or by_time


def percentile(values: Floats, percent: float) -> float:
    """Linear between order statistics, as numpy's default, which takes ten times as long."""
    ordered = np.sort(values)
    place = (ordered.size - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, ordered.size - 1)
    return float(ordered[below] + (ordered[above] - ordered[below]) * (place - below))


@dataclass(slots=True, eq=False)
class Replayer:
    """Replays of one job."""

    spec: TuningSpec
    _drawn: dict[int, tuple[Requests, int]] = field(default_factory=dict)

    def run(self, setting: Setting, costs: Floats, seed: int) -> Run:
        """`seed`: of the trial. Raises TrimtabError for a setting or load that cannot be replayed."""
        from tuner.serving.replay.run import simulate  # noqa: PLC0415 - the compiled replay: only where it is run

        assert isinstance(self.spec.target, EngineTarget)
        requests, warm_up = self._requests(seed)
        rules = rules_with_knobs(self.spec.target.engine, {**self.spec.target.shape, **setting})
        replica = Replica(table=table_of(costs), rules=rules, request_ms=_REQUEST_MS)
        result = simulate(Fleet(replicas=(replica,), router="round-robin"), requests)
        kept = ~result.refused
        kept[:warm_up] = False
        if not kept.any():
            raise Unsupported("a replay answers none of the requests", field="load", hint="widen the step budget")
        arrival_s, done_s, first_s = result.arrival_s[kept], result.done_s[kept], result.first_token_s[kept]
        output = result.osl[kept]
        return Run(
            intended_s=arrival_s,
            first_s=first_s - arrival_s,
            per_token_s=np.where(output > 1, (done_s - first_s) / np.maximum(output - 1, 1), np.nan),
            whole_s=done_s - arrival_s,
            prompt_tokens=int(result.isl[kept].sum()),
            output_tokens=int(output.sum()),
            asked=len(requests) - warm_up,
            open_loop=requests.clients is None,
            shares=_shares(result.replicas[0], costs),
        )

    def _requests(self, seed: int) -> tuple[Requests, int]:
        """Of a trial's first run, and how many of them warm up."""
        if seed not in self._drawn:
            if len(self._drawn) >= _DRAWN_MOST:
                self._drawn.clear()
            load, how = self.spec.load, self.spec.measuring
            prompt = 1 if load.input is None else load.input.tokens
            most = min(max(_PROMPT_TOKENS_MAX // prompt, _REQUESTS_LEAST), _REQUESTS_MAX)
            warm_up = max(how.warm_up_requests, (load.concurrency or 0) if load.arrivals == "closed" else 0)
            warm_up = min(warm_up, most // 2)
            count = warm_up + min(how.requests, most - warm_up)
            self._drawn[seed] = requests_of(load, count, run_seed(seed, 0)), warm_up
        return self._drawn[seed]


def _shares(use: ReplicaUse, costs: Floats) -> Floats:
    """Of the engine's busy time, by cost; what nothing else explains is attention."""
    spent = np.array([use.iterations, use.context_tokens, use.decode_tokens, 0.0]) * costs
    busy_ms = (use.prefill_s + use.mixed_s + use.decode_s) * 1e3
    spent[3] = max(0.0, busy_ms - float(spent.sum()))
    return np.asarray(spent / max(float(spent.sum()), 1e-12), np.float64)
