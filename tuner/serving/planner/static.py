"""The static estimate of one replica: what the step table alone says, without a queue.

It answers in microseconds and prunes; the replay decides. Everything errs on the side of the deployment, so that what
is pruned here would lose in the replay too: prefill at its best rate per token, no waiting, perfect overlap of stages.

With `g` sequences in each pipeline lane a decode step takes `step(g)`, and prompts take their share of the time, so a
rank with `s` stages carries `s g / (output step(g) + g prefill)` requests per unit of time (Little's law), each output
token taking `step(g) / (1 - share of prefill)`. Walking up `g` gives load and TPOT together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.model.choice import LatencyTarget, Slo
from controlplane.model.plans import Role
from tuner.serving.planner import lookup
from tuner.serving.planner.load import PERCENTILES, Draws
from tuner.serving.planner.shape import Scheduler, Shape
from tuner.serving.step.table import Floats, StepTable

# The estimate of TPOT at a load is a mean; a replay may beat it a little by luck of the draw.
_TPOT_MARGIN = 0.9
_SIZES = 40  # batch sizes that are looked at


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Curve:
    """Loads of a whole replica in requests/s, rising, the sequences that run then, and their TPOT."""

    load: Floats
    running: Floats
    tpot_ms: Floats

    def tpot_at(self, load: float) -> float:
        """Mean time per output token at a load; beyond the last one the last value."""
        return float(np.interp(load, self.load, self.tpot_ms))

    def running_at(self, load: float) -> float:
        """Requests in decode at a load."""
        return float(np.interp(load, self.load, self.running))

    def most_within(self, tpot_ms: float) -> float:
        """Largest load whose TPOT is within the limit; 0 when none is."""
        over = np.flatnonzero(self.tpot_ms > tpot_ms)
        if not len(over):
            return float(self.load[-1])
        return 0.0 if over[0] == 0 else float(self.load[over[0]])  # the first point beyond: an upper bound


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Static:
    """Bounds of one replica, by role."""

    ttft_floor_ms: dict[str, float]
    tpot_floor_ms: dict[str, float]
    prefill_rate: float
    curves: dict[Role, Curve]  # aggregated and decode
    closed_prefill_ms: float  # prefill work beside each running request, per output token

    def tpot_ms(self, load: float) -> float:
        """Mean time per output token of an aggregated replica."""
        return self.curves["aggregated"].tpot_at(load)

    def running(self, load: float) -> float:
        """Requests that decode at once in an aggregated replica."""
        return self.curves["aggregated"].running_at(load)

    def most(self, role: Role) -> float:
        """Requests per second the replica can compute in a role, whatever the latency."""
        return self.prefill_rate if role == "prefill" else float(self.curves[role].load[-1])

    def limit(self, slo: Slo, role: Role, *, closed: bool = False) -> float:
        """Largest load the promise could allow; 0 when a single request breaks it. `closed`: in clients."""
        if self._floor(slo, role) is not None:
            return 0.0
        if role == "prefill":
            return self.prefill_rate
        curve, tightest = self.curves[role], _tightest(slo)
        if closed:
            return self._most_clients(tightest)
        return self.most(role) if tightest is None else min(self.most(role), curve.most_within(tightest / _TPOT_MARGIN))

    def fails(self, slo: Slo, role: Role, load: float, *, closed: bool = False) -> str | None:
        """The first thing that rules out this load, with its numbers; None when the replay must decide."""
        said = self._floor(slo, role)
        if said is not None or load <= self.limit(slo, role, closed=closed):
            return said
        tightest = _tightest(slo)
        if closed:
            return f"with {load:g} clients a replica TPOT is above the SLO of {tightest:g} ms"
        most = self.most(role)
        if load > most:
            return f"{load:.3g} requests/s a replica are above the {most:.3g} it can compute"
        tpot = self.curves[role].tpot_at(load)
        return f"TPOT is about {tpot:,.1f} ms at {load:.3g} requests/s a replica, the SLO is {tightest:g} ms"

    def _floor(self, slo: Slo, role: Role) -> str | None:
        checks: list[tuple[str, LatencyTarget | None, dict[str, float]]] = []
        if role != "decode":
            checks.append(("TTFT", slo.ttft_ms, self.ttft_floor_ms))
        if role != "prefill":
            checks.append(("TPOT", slo.tpot_ms, self.tpot_floor_ms))
        for name, target, floors in checks:
            for point, limit in limits(target):
                if floors[point] > limit:
                    return (
                        f"{name} {point} is at least {floors[point]:,.1f} ms without any load, the SLO is {limit:g} ms"
                    )
        return None

    def _most_clients(self, tightest: float | None) -> float:
        """Clients of a closed loop are always in prefill or decode: each output token waits for the others' prompts."""
        if tightest is None:
            return float("inf")
        decode = self.curves["decode"]
        least = decode.tpot_ms + np.maximum(decode.running - 1.0, 0.0) * self.closed_prefill_ms
        over = np.flatnonzero(least * _TPOT_MARGIN > tightest)
        if not len(over):
            return float("inf")  # more clients wait in the queue: TTFT decides
        return 0.0 if over[0] == 0 else float(decode.running[over[0]])


def limits(target: LatencyTarget | None) -> list[tuple[str, float]]:
    """The percentiles that have a limit, in ascending order."""
    if target is None:
        return []
    return [(point, value) for point, _ in PERCENTILES if (value := getattr(target, point)) is not None]


def estimates(
    shape: Shape, table: StepTable, draws: Draws, schedulers: Sequence[Scheduler], kv_tokens: float, slo: Slo
) -> list[Static]:
    """One estimate for each of the scheduler settings. `kv_tokens`: tokens the KV cache of one rank holds."""
    held = draws.mean_held
    most = max(1.0, (kv_tokens - draws.shared_prefix) / max(held - draws.shared_prefix, 1.0))
    sizes = np.geomspace(1.0, max(most, 2.0), _SIZES)
    steps = lookup.decode_step_ms(table, sizes, held)
    tpot_floors = {
        point: float(lookup.decode_step_ms(table, 1.0, draws.held_percentiles[point]))
        for point, _ in limits(slo.tpot_ms)
    }
    by_budget: dict[int, tuple[float, dict[str, float]]] = {}
    out = []
    for scheduler in schedulers:
        budget = scheduler.max_num_batched_tokens
        if budget not in by_budget:
            by_budget[budget] = (_cheapest_prefill_ms(table, draws, budget), _ttft_floors(table, draws, budget, slo))
        prefill_ms, ttft_floors = by_budget[budget]
        stages, ranks = shape.case.pipeline_parallel, shape.case.attention_data_parallel
        lane = _Lane(sizes, steps, stages, ranks, draws.mean_output, min(most, float(scheduler.max_num_seqs)) / stages)
        out.append(
            Static(
                ttft_floor_ms=ttft_floors,
                tpot_floor_ms=tpot_floors,
                prefill_rate=ranks * stages * 1e3 / max(prefill_ms, 1e-9),
                curves={"aggregated": lane.curve(prefill_ms), "decode": lane.curve(0.0)},
                closed_prefill_ms=prefill_ms / stages / ranks / max(draws.mean_output, 1.0),
            )
        )
    return out


@dataclass(frozen=True, slots=True, eq=False)
class _Lane:
    sizes: Floats
    steps: Floats
    stages: int
    ranks: int
    output: float
    most: float

    def curve(self, prefill_ms: float) -> Curve:
        kept = max(1, int(np.searchsorted(self.sizes, max(self.most, 1.0), side="right")))
        sizes = np.append(self.sizes[:kept], max(self.most, 1.0))
        steps = np.append(self.steps[:kept], np.interp(max(self.most, 1.0), self.sizes, self.steps))
        load = self.stages * sizes * 1e3 / (self.output * steps + sizes * prefill_ms)
        share = np.minimum(load * prefill_ms / self.stages / 1e3, 0.999)
        return Curve(
            load=np.maximum.accumulate(load) * self.ranks,
            running=sizes * self.stages * self.ranks,
            tpot_ms=np.maximum.accumulate(steps / (1 - share)),
        )


def _tightest(slo: Slo) -> float | None:
    return min((limit for _, limit in limits(slo.tpot_ms)), default=None)


def _ttft_floors(table: StepTable, draws: Draws, budget: int, slo: Slo) -> dict[str, float]:
    """Prefill of one prompt alone, at the lengths of the percentiles that are promised."""
    by_length: dict[int, float] = {}
    out = {}
    for point, _ in limits(slo.ttft_ms):
        tokens = draws.prompt_percentiles[point]
        if tokens not in by_length:
            by_length[tokens] = lookup.prefill_ms(table, tokens, budget, min(draws.shared_prefix, tokens - 1))
        out[point] = by_length[tokens]
    return out


def _cheapest_prefill_ms(table: StepTable, draws: Draws, budget: int) -> float:
    """Least time that a prompt's new tokens add to iterations that decodes need anyway: one whole prompt, or as many as
    the budget takes, whichever is cheaper per token; attention at the largest batch."""
    tokens, past = draws.mean_new, draws.shared_prefix
    chunks = np.array([max(1.0, min(tokens, budget)), float(budget)])
    rest = lookup.context_ms(table, chunks) - float(lookup.context_ms(table, 1.0))
    per_token = max(float((rest / chunks).min()), 0.0)
    batch = max(1.0, min(budget / tokens, float(table.context_attention_batch[-1])))
    attention = float(lookup.context_attention_ms(table, batch, tokens, past)) / batch
    return tokens * per_token + attention
