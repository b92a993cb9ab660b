"""The real predictor behind the search: step tables, memory, replay, corrections, power and cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from controlplane.model.choice import Slo
from controlplane.model.plans import PlanRequest, Prediction, Role
from controlplane.model.routers import RouterPolicy
from tuner.serving.calibration.apply import Calibrated, calibrate
from tuner.serving.calibration.parameters import Calibration
from tuner.serving.case import EngineCase
from tuner.serving.energy import clock_factors, phase_power_w
from tuner.serving.planner import fleets
from tuner.serving.planner.load import Draws
from tuner.serving.planner.pieces import Deployment, Outcome, Room
from tuner.serving.planner.prediction import Offered, prediction_of
from tuner.serving.planner.schedulers import schedulers
from tuner.serving.planner.shape import Scheduler, Shape, Unit
from tuner.serving.planner.static import Static, estimates, limits
from tuner.serving.replay.fleet import Fleet, KvLink, Replica
from tuner.serving.replay.run import simulate
from tuner.serving.step.ladder import step_table
from tuner.serving.step.roofline import roofline_table
from tuner.serving.step.table import StepTable

_SOME_WATTS = 1.0  # a bound for accelerators whose power no document states
_UNBOUNDED_TOKENS = 1e12  # KV cache of a device whose memory no document states


@dataclass(slots=True)
class StandardPieces:
    """One planning question's view of the predictor. `router`: the policy that is really installed."""

    router: RouterPolicy
    slo: Slo
    draws: Draws
    calibration: Calibration | None = None  # None: the packaged one
    _engines: dict[tuple[EngineCase, float | None], Calibrated] = field(default_factory=dict)

    def sketch(self, shape: Shape) -> StepTable:
        return roofline_table(shape.case)

    def table(self, shape: Shape) -> StepTable:
        return self._engine(shape).table

    def schedulers(self, shape: Shape) -> list[Scheduler]:
        return schedulers(shape, int(self.draws.input_tokens.max()))

    def room(self, shape: Shape, scheduler: Scheduler, longest_tokens: int) -> Room:
        budget = fleets.memory_of(shape, scheduler, int(self.draws.mean_held))
        tokens = fleets.kv_tokens_of(shape, budget)
        if tokens is None:
            return Room(kv_tokens=_UNBOUNDED_TOKENS, short_bytes=0, weight_bytes=budget.weight_bytes)
        short = budget.missing_bytes
        if not short and tokens < longest_tokens:
            short = int((longest_tokens - tokens) * budget.kv_bytes_per_token)
        said = ""
        if short:
            held = f"{budget.fixed_bytes / 1e9:.1f} GB of weights, activations and runtime on each rank"
            said = f"memory is {short:,} bytes short: {held}, and the longest request has {longest_tokens:,} tokens"
        return Room(kv_tokens=tokens, short_bytes=short, weight_bytes=budget.weight_bytes, message=said)

    def least_watts(self, shape: Shape) -> float:
        return phase_power_w(shape.accelerator, "idle", cap_w=shape.pool.power_cap_w) or _SOME_WATTS

    def replica(self, unit: Unit, role: Role, draws: Draws, load: float, static: Static) -> Outcome:
        requests = fleets.requests_of(draws, load, _running(static, draws, load), tail=self._tail(), role=role)
        result = simulate(self._alone(unit, role), requests)
        ttft, tpot = result.ttft_ms, result.tpot_ms
        return Outcome(ttft_ms=ttft[~np.isnan(ttft)], tpot_ms=tpot[~np.isnan(tpot)], refused=int(result.refused.sum()))

    def predict(self, deployment: Deployment, request: PlanRequest, draws: Draws) -> Prediction:
        requests = fleets.requests_of(
            draws, self._asked(draws), self._all_running(deployment, draws), tail=self._tail()
        )
        result = simulate(self._fleet(deployment, draws), requests, seed=request.seed)
        engines = [self._engine(group.unit.shape) for group in deployment.groups]
        rate = draws.rate_per_second
        offered = None if rate is None or draws.clients is not None else Offered(rate, draws.mean_output)
        return prediction_of(result, deployment, engines, request, self._memory_bytes(deployment), offered)

    def _memory_bytes(self, deployment: Deployment) -> int | None:
        """Of the fullest accelerator: what the engine takes, KV cache included."""
        taken: list[int] = []
        for group in deployment.groups:
            budget = fleets.memory_of(group.unit.shape, group.unit.scheduler, int(self.draws.mean_held))
            if budget.kv_bytes is None:
                return None
            taken.append(budget.fixed_bytes + budget.kv_bytes)
        return max(taken)

    def _alone(self, unit: Unit, role: Role) -> Fleet:
        """One replica in its role. A decode replica gets its prompts from one that takes no time."""
        if role != "decode":
            return Fleet(replicas=(self._replica(unit, "aggregated"),))
        decode = self._replica(unit, "decode")
        source = Replica(table=fleets.no_time(decode.table), rules=decode.rules, role="prefill")
        return Fleet(replicas=(source, decode), link=KvLink(bytes_per_token=1.0, bytes_per_s=1e18))

    def _asked(self, draws: Draws) -> float:
        return float(draws.clients if draws.clients is not None else draws.rate_per_second or 0.0)

    def _fleet(self, deployment: Deployment, draws: Draws) -> Fleet:
        replicas: list[Replica] = []
        link = None
        for group in deployment.groups:
            replicas += [self._replica(group.unit, group.role)] * group.replicas
            if group.role == "prefill":
                link = fleets.link_of(group.unit.shape, max(1, int(draws.mean_new)))
        router = self.router
        return Fleet(replicas=tuple(replicas), router=router, link=link)

    def _all_running(self, deployment: Deployment, draws: Draws) -> float:
        asked = self._asked(draws)
        serving = [group for group in deployment.groups if group.role != "prefill"]
        total = sum(group.replicas for group in serving)
        return max(total * _running(self._static(group.unit), draws, asked / total) for group in serving)

    def _static(self, unit: Unit) -> Static:
        table = self._engine(unit.shape).table
        return estimates(unit.shape, table, self.draws, [unit.scheduler], _UNBOUNDED_TOKENS, self.slo)[0]

    def _engine(self, shape: Shape) -> Calibrated:
        key = shape.case, shape.pool.power_cap_w  # the same accelerators in another pool are the same engine
        if key not in self._engines:
            table = step_table(shape.case)
            cap = clock_factors(shape.accelerator, shape.pool.power_cap_w)
            self._engines[key] = calibrate(shape.case, table if cap is None else _slower(table, *cap), self.calibration)
        return self._engines[key]

    def _replica(self, unit: Unit, role: Role) -> Replica:
        shape = unit.shape
        tokens = fleets.kv_tokens_of(shape, fleets.memory_of(shape, unit.scheduler, int(self.draws.mean_held)))
        rules, engine = fleets.rules_of(unit), self._engine(shape)
        return Replica(
            table=engine.table,
            rules=rules,
            kv_blocks=None if tokens is None else max(1, int(tokens // rules.block_tokens)),
            role=role,
            attention_ranks=shape.case.attention_data_parallel,
            pipeline_stages=shape.case.pipeline_parallel,
            draft_tokens=shape.case.draft_tokens,
            host_step_ms=engine.host_step_ms,
            host_sequence_ms=engine.host_sequence_ms,
            request_ms=engine.request_ms,
            entry_token_ms=engine.entry_token_ms,
        )

    def _tail(self) -> bool:
        return any(point == "p99" for target in (self.slo.ttft_ms, self.slo.tpot_ms) for point, _ in limits(target))


def _running(static: Static, draws: Draws, load: float) -> float:
    return load if draws.clients is not None else static.running(load)


def _slower(table: StepTable, prefill: float, decode: float) -> StepTable:
    """Step times under a power cap."""
    if prefill == decode == 1.0:
        return table
    return replace(
        table,
        context_ms=table.context_ms * prefill,
        context_attention_ms=table.context_attention_ms * prefill,
        decode_ms=table.decode_ms * decode,
        decode_attention_ms=table.decode_attention_ms * decode,
    )
