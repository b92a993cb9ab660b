"""The static estimate of one replica: what the step table alone says, without a queue.

It answers in microseconds and prunes; the replay decides. Everything errs on the side of the deployment, so that what
is pruned here would lose in the replay too: prefill at its best rate per token, no waiting, perfect overlap of stages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controlplane.model.plans import Role
from controlplane.model.serving import LatencyTarget, Slo
from tuner.serving.planner import lookup
from tuner.serving.planner.load import PERCENTILES, Draws
from tuner.serving.planner.shape import Scheduler, Shape
from tuner.serving.step.table import Floats, StepTable

# The estimate of TPOT at a load is a mean; a replay may beat it a little by luck of the draw.
_TPOT_MARGIN = 0.9
_ROUNDS = 24


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Static:
    """Bounds of one replica. Rates are requests per second of the whole replica."""

    max_rate: float
    max_running: float  # requests in decode at once, all attention-data-parallel ranks together
    ttft_floor_ms: dict[str, float]
    tpot_floor_ms: dict[str, float]
    _rank: _Rank

    def tpot_ms(self, rate: float) -> float:
        """Mean time per output token at a load below `max_rate`."""
        return self._rank.tpot_ms(rate)

    def most(self, role: Role) -> float:
        """Requests per second the replica can compute in a role, whatever the latency."""
        if role == "prefill":
            return self._rank.prefill_rate()
        return self.max_rate if role == "aggregated" else replace(self._rank, prefill_ms=0.0).max_rate()

    def fails(self, slo: Slo, rate: float) -> str | None:
        """The first thing that rules out this rate, with its numbers; None when the replay must decide."""
        return (
            self._floor("TTFT", slo.ttft_ms, self.ttft_floor_ms)
            or self._floor("TPOT", slo.tpot_ms, self.tpot_floor_ms)
            or self._overload(rate, self.max_rate)
            or self._slow(slo, self.tpot_ms(rate), rate)
        )

    def fails_closed(self, slo: Slo, clients: float) -> str | None:
        """The same for a closed loop of this many clients."""
        said = self._floor("TTFT", slo.ttft_ms, self.ttft_floor_ms) or self._floor(
            "TPOT", slo.tpot_ms, self.tpot_floor_ms
        )
        if said is not None:
            return said
        tightest = min((limit for _, limit in limits(slo.tpot_ms)), default=None)
        tpot = self._rank.tpot_of_clients_ms(min(clients, self.max_running))
        if tightest is not None and tpot * _TPOT_MARGIN > tightest:
            return f"TPOT is about {tpot:,.1f} ms with {clients:g} clients a replica, the SLO is {tightest:g} ms"
        return None

    def fails_prefill(self, slo: Slo, rate: float) -> str | None:
        """The same for a replica that only computes prompts."""
        return self._floor("TTFT", slo.ttft_ms, self.ttft_floor_ms) or self._overload(rate, self._rank.prefill_rate())

    def fails_decode(self, slo: Slo, rate: float) -> str | None:
        """The same for a replica that only decodes."""
        alone = replace(self._rank, prefill_ms=0.0)
        return (
            self._floor("TPOT", slo.tpot_ms, self.tpot_floor_ms)
            or self._overload(rate, alone.max_rate())
            or self._slow(slo, alone.tpot_ms(rate), rate)
        )

    def _floor(self, name: str, target: LatencyTarget | None, floors: dict[str, float]) -> str | None:
        for point, limit in limits(target):
            if floors[point] > limit:
                return f"{name} {point} is at least {floors[point]:,.1f} ms without any load, the SLO is {limit:g} ms"
        return None

    def _overload(self, rate: float, most: float) -> str | None:
        return f"{rate:.3g} requests/s a replica are above the {most:.3g} it can compute" if rate > most else None

    def _slow(self, slo: Slo, tpot_ms: float, rate: float) -> str | None:
        tightest = min((limit for _, limit in limits(slo.tpot_ms)), default=None)
        if tightest is None or tpot_ms * _TPOT_MARGIN <= tightest:
            return None
        return f"TPOT is about {tpot_ms:,.1f} ms at {rate:.3g} requests/s a replica, the SLO is {tightest:g} ms"


def limits(target: LatencyTarget | None) -> list[tuple[str, float]]:
    """The percentiles that have a limit, in ascending order."""
    if target is None:
        return []
    return [(point, value) for point, _ in PERCENTILES if (value := getattr(target, point)) is not None]


def estimate(shape: Shape, table: StepTable, draws: Draws, scheduler: Scheduler, kv_tokens: float) -> Static:
    """`kv_tokens`: tokens the KV cache of one rank holds."""
    case = shape.case
    budget = scheduler.max_num_batched_tokens
    new, held = draws.mean_new, draws.mean_held
    rank = _Rank(
        table=table,
        stages=case.pipeline_parallel,
        ranks=case.attention_data_parallel,
        input_tokens=new,
        output_tokens=draws.mean_output,
        kv=held,
        prefill_ms=_cheapest_prefill_ms(table, new, draws.shared_prefix, budget),
        max_running=max(
            1.0,
            min(
                float(scheduler.max_num_seqs),
                (kv_tokens - draws.shared_prefix) / max(held - draws.shared_prefix, 1.0),
            ),
        ),
    )
    return Static(
        max_rate=rank.max_rate(),
        max_running=rank.max_running * rank.ranks,
        ttft_floor_ms={
            point: lookup.prefill_ms(table, tokens, budget, min(draws.shared_prefix, tokens - 1))
            for point, tokens in draws.prompt_percentiles.items()
        },
        tpot_floor_ms={
            point: float(lookup.decode_step_ms(table, 1.0, kv)) for point, kv in draws.held_percentiles.items()
        },
        _rank=rank,
    )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Rank:
    """One attention-data-parallel rank under its share of the load."""

    table: StepTable
    stages: int
    ranks: int
    input_tokens: float
    output_tokens: float
    kv: float
    prefill_ms: float
    max_running: float

    def max_rate(self) -> float:
        """Requests per second at which prefill and full decode batches fill the time."""
        running = self.max_running / self.stages  # sequences of one micro-batch
        sizes = np.unique(np.clip(np.geomspace(1.0, max(running, 1.0), 16), 1.0, None))
        per_token = lookup.decode_step_ms(self.table, sizes, self.kv) / sizes
        ms = self.prefill_ms + (self.output_tokens - 1) * float(per_token.min())
        return self.ranks * self.stages * 1e3 / ms

    def prefill_rate(self) -> float:
        """Requests per second when nothing but prompts is computed."""
        return self.ranks * self.stages * 1e3 / max(self.prefill_ms, 1e-9)

    def tpot_of_clients_ms(self, clients: float) -> float:
        """Least mean time per output token when `clients` requests are always running: each needs its own prefill and
        `output` steps that all share."""
        running = max(clients / self.ranks, 1.0)
        step = float(lookup.decode_step_ms(self.table, max(running / self.stages, 1.0), self.kv))
        prefill = running / self.stages * self.prefill_ms / max(self.output_tokens, 1.0)
        return step + prefill * (1 - 1 / running)

    def tpot_ms(self, rate: float) -> float:
        """Fixed point of Little's law: running = rate x output x TPOT, with prefill taking its share of the time."""
        share = min(rate / self.ranks * self.prefill_ms / 1e3 / self.stages, 0.99)
        running = 1.0
        tpot = 0.0
        for _ in range(_ROUNDS):
            step = float(lookup.decode_step_ms(self.table, max(running / self.stages, 1.0), self.kv))
            tpot = step / (1 - share)
            wanted = min(rate / self.ranks * self.output_tokens * tpot / 1e3, self.max_running)
            if abs(wanted - running) < 0.01 * running:
                break
            running = wanted
        return tpot


def _cheapest_prefill_ms(table: StepTable, tokens: float, past: int, budget: int) -> float:
    """Least time that a prompt's new tokens add: the best slope of the non-attention part (decodes share the rest of an
    iteration) plus attention at the largest batch the budget allows."""
    knots = table.context_tokens
    slopes: Floats = np.diff(table.context_ms) / np.diff(knots)
    reachable = slopes[: max(1, int(np.searchsorted(knots, budget)))]
    batch = max(1.0, min(budget / tokens, float(table.context_attention_batch[-1])))
    attention = float(lookup.context_attention_ms(table, batch, tokens, past)) / batch
    return tokens * max(float(reachable.min()), 0.0) + attention
