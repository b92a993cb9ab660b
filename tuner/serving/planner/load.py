"""The asked traffic as numbers: lengths, and the same random draws for every deployment and every rate.

Common random numbers: request i has the same lengths and the same unit gap in every replay, so that two deployments
differ by what they are and not by luck, and a looser promise can never look worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from controlplane.model.plans import Lengths, Workload

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PERCENTILES = (("p50", 50.0), ("p90", 90.0), ("p95", 95.0), ("p99", 99.0))
# Requests drawn once and used from the front. 12,000 keeps some 120 beyond a 99th percentile.
DRAWN = 12_000
DRAWN_SHARED = 120_000  # a replica gets a share of these
_BURST = 16  # requests that arrive together (arrivals: burst), evenly spaced groups


@dataclass(frozen=True, eq=False, kw_only=True)
class Draws:
    """Requests in order of arrival. `at`: arrival in units of the mean gap (1 / rate); None for a closed loop.

    A share of Poisson traffic is Poisson traffic, so a lower load just stretches time. Bursty traffic and traces are
    split as a router splits them: each request goes to a replica by its own draw.
    """

    at: Floats | None
    input_tokens: Ints
    output_tokens: Ints
    shared_prefix: int
    rate_per_second: float | None  # of the whole deployment
    clients: int | None
    thin: Floats | None = None  # uniform in [0, 1): a replica with a share s of the traffic gets those below s
    in_turns: bool = False  # a replica with a share of 1/n gets every n-th

    @cached_property
    def mean_new(self) -> float:
        """Mean prompt length without the shared prefix, tokens."""
        return float(np.maximum(self.input_tokens - self.shared_prefix, 1).mean())

    @cached_property
    def mean_output(self) -> float:
        """Mean output length, tokens."""
        return float(self.output_tokens.mean())

    @cached_property
    def mean_held(self) -> float:
        """Mean tokens a request holds in the KV cache half-way through its answer."""
        return float((self.input_tokens + self.output_tokens / 2).mean())

    @cached_property
    def prompt_percentiles(self) -> dict[str, int]:
        """Prompt lengths at the percentiles an SLO can name."""
        shares = [share for _, share in PERCENTILES]
        values = np.percentile(self.input_tokens, shares, method="lower")
        return {point: int(value) for (point, _), value in zip(PERCENTILES, values, strict=True)}

    @cached_property
    def held_percentiles(self) -> dict[str, float]:
        """Tokens held half-way through the answer, at the same percentiles."""
        shares = [share for _, share in PERCENTILES]
        values = np.percentile(self.input_tokens + self.output_tokens / 2, shares, method="lower")
        return {point: float(value) for (point, _), value in zip(PERCENTILES, values, strict=True)}


def draw(workload: Workload, seed: int, *, in_turns: bool = False) -> Draws:
    """Draws of a workload that is not a trace file (`of_trace`). `in_turns`: a router looks where it sends requests, so
    a replica gets every n-th one, or a smoother share yet."""
    if workload.input is None or workload.output is None:
        raise ValueError("lengths are given unless arrivals is trace")
    streams = np.random.SeedSequence(seed).spawn(4)
    gaps, inputs, outputs, shares = (np.random.default_rng(stream) for stream in streams)
    shared = in_turns or workload.arrivals not in ("poisson", "closed")
    count = DRAWN_SHARED if shared else DRAWN
    at: Floats | None = None
    if workload.arrivals == "poisson":
        at = np.cumsum(gaps.exponential(size=count))
    elif workload.arrivals == "gamma":
        shape = 1 / workload.cv**2
        at = np.cumsum(gaps.gamma(shape, 1 / shape, size=count))
    elif workload.arrivals == "burst":
        at = np.repeat(np.arange(1, -(-count // _BURST) + 1) * float(_BURST), _BURST)[:count]
    return Draws(
        at=at,
        thin=shares.random(count) if shared and not in_turns else None,
        in_turns=in_turns,
        input_tokens=_lengths(workload.input, inputs, count),
        output_tokens=_lengths(workload.output, outputs, count),
        shared_prefix=workload.shared_prefix_tokens,
        rate_per_second=workload.rate_per_second,
        clients=workload.concurrency if workload.arrivals == "closed" else None,
    )


def of_trace(arrival_s: Floats, input_tokens: Ints, output_tokens: Ints, seed: int, *, in_turns: bool = False) -> Draws:
    """Draws of a trace: its own arrivals, with the mean gap as the unit. Expects at least two requests in order."""
    span_s = float(arrival_s[-1] - arrival_s[0])
    rate = (len(arrival_s) - 1) / span_s if span_s > 0 else float(len(arrival_s))
    return Draws(
        at=(arrival_s - arrival_s[0]) * rate,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        shared_prefix=0,
        rate_per_second=rate,
        clients=None,
        thin=None if in_turns else np.random.default_rng(seed).random(len(arrival_s)),
        in_turns=in_turns,
    )


def _lengths(lengths: Lengths, generator: np.random.Generator, count: int) -> Ints:
    least = max(1, int(lengths.range_ratio * lengths.tokens))
    return generator.integers(least, lengths.tokens + 1, size=count, dtype=np.int64)
