"""What a replay gives back: a row per request, what each replica did, and the figures drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from controlplane.model.choice import LatencyTarget, Slo
from controlplane.model.errors import UnknownName

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Points in time (iteration starts, thinned out): share of KV blocks in use, requests running and waiting."""

    time_s: Floats
    kv_fraction: Floats
    running: Floats
    waiting: Floats


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ReplicaUse:
    """Time of a replica by what its iterations held: prompts only, prompts and decodes, decodes only, nothing."""

    iterations: int
    prefill_s: float
    mixed_s: float
    decode_s: float
    idle_s: float
    context_tokens: int  # computed, recomputation included
    decode_tokens: int
    kv_fraction_peak: float | None  # None: KV memory was not bounded
    timeline: Timeline


@dataclass(frozen=True, eq=False, kw_only=True)
class ReplayResult:
    """Times in s from the start of the replay; NaN for requests that were refused (they fit no engine)."""

    isl: Ints
    osl: Ints
    arrival_s: Floats
    scheduled_s: Floats
    first_token_s: Floats
    done_s: Floats
    replica: Ints
    decode_replica: Ints  # -1: the replica that did the prompt decoded, too
    preemptions: Ints
    prefix_hit_tokens: Ints
    refused: NDArray[np.bool_]
    replicas: tuple[ReplicaUse, ...]
    span_s: float
    tenant: Ints | None = None
    tenants: tuple[str, ...] = ()

    def of_tenant(self, name: str) -> NDArray[np.bool_]:
        """The rows of a tenant's requests."""
        if self.tenant is None or name not in self.tenants:
            raise UnknownName(
                "no such tenant", field="tenant", value=name, limit=", ".join(self.tenants) or "none named"
            )
        return np.equal(self.tenant, self.tenants.index(name))

    @cached_property
    def ttft_ms(self) -> Floats:
        return (self.first_token_s - self.arrival_s) * 1e3

    @cached_property
    def tpot_ms(self) -> Floats:
        """Mean time between output tokens; NaN for outputs of one token, which have no second."""
        gaps = np.where(self.osl > 1, self.osl - 1, np.nan)
        return (self.done_s - self.first_token_s) * 1e3 / gaps

    @cached_property
    def e2e_ms(self) -> Floats:
        return (self.done_s - self.arrival_s) * 1e3

    @property
    def answered(self) -> int:
        return int((~self.refused).sum())

    @property
    def iterations(self) -> int:
        return sum(use.iterations for use in self.replicas)

    @property
    def output_tokens_per_s(self) -> float:
        return float(self.osl[~self.refused].sum() / self.span_s) if self.span_s > 0 else 0.0

    @property
    def requests_per_s(self) -> float:
        return self.answered / self.span_s if self.span_s > 0 else 0.0

    @property
    def kv_fraction_peak(self) -> float | None:
        """Of the fullest rank; None where no replica's KV memory was bounded."""
        known = [use.kv_fraction_peak for use in self.replicas if use.kv_fraction_peak is not None]
        return max(known) if known else None

    def meeting(self, slo: Slo) -> NDArray[np.bool_]:
        """Requests within the limits of the highest percentile that the promise names for each metric."""
        good = ~self.refused
        for target, values in ((slo.ttft_ms, self.ttft_ms), (slo.tpot_ms, self.tpot_ms)):
            limits = _limits(target)
            if limits:
                good &= np.isnan(values) | (values <= limits[-1][1])
        return good

    def goodput_per_s(self, slo: Slo) -> float:
        return float(self.meeting(slo).sum() / self.span_s) if self.span_s > 0 else 0.0

    def meets(self, slo: Slo) -> bool:
        """Whether every named percentile holds and nothing was refused."""
        if self.refused.any():
            return False
        for target, values in ((slo.ttft_ms, self.ttft_ms), (slo.tpot_ms, self.tpot_ms)):
            known = values[~np.isnan(values)]
            if known.size and any(percentile(known, q) > limit for q, limit in _limits(target)):
                return False
        return True


def percentile(values: Floats, q: float) -> float:
    """Linear between ranks, as the load generators of the engines report it. NaNs are left out."""
    return float(np.percentile(values[~np.isnan(values)], q))


def _limits(target: LatencyTarget | None) -> list[tuple[float, float]]:
    """(percentile, limit in ms) in rising order of percentile."""
    if target is None:
        return []
    named = ((50.0, target.p50), (90.0, target.p90), (95.0, target.p95), (99.0, target.p99))
    return [(q, limit) for q, limit in named if limit is not None]
