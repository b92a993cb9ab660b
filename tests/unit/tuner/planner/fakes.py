"""A small world for the planner: synthetic step tables, and a replay that is a queue with one server."""

from dataclasses import dataclass, field

import numpy as np

from controlplane.model.plans import (
    Allowed,
    Lengths,
    PlannablePool,
    PlanRequest,
    Prediction,
    Provenance,
    Quantiles,
    Role,
    Workload,
)
from controlplane.model.serving import LatencyTarget, Slo
from tuner.serving.planner.load import Draws
from tuner.serving.planner.pieces import Deployment, Outcome, Room
from tuner.serving.planner.shape import Scheduler, Shape, Unit
from tuner.serving.planner.static import Static, estimates, limits
from tuner.serving.step.table import StepTable

PROVENANCE = Provenance(tier="roofline", source="synthetic")
_SPEED = {"h100-sxm-80gb": 1.0, "h200-sxm-141gb": 1.3, "l40s": 0.3, "b200-sxm-180gb": 2.0}


def table(speed: float) -> StepTable:
    """Times of an engine `speed` times as fast as the reference (a 70B model on one accelerator, roughly)."""
    tokens, batch = np.array([1.0, 512.0, 8192.0, 65536.0]), np.array([1.0, 64.0])
    new, past = np.array([1.0, 1024.0, 65536.0]), np.array([0.0, 65536.0])
    sequences, kv = np.array([1.0, 64.0, 1024.0]), np.array([1.0, 65536.0])
    context_attention = batch[:, None, None] * new[None, :, None] * (new[None, :, None] + past[None, None, :]) * 2e-7
    return StepTable(
        context_tokens=tokens,
        context_ms=(40.0 + 0.14 * tokens) / speed,
        decode_sequences=sequences,
        decode_ms=(40.0 + 0.10 * sequences) / speed,
        context_attention_batch=batch,
        context_attention_new=new,
        context_attention_past=past,
        context_attention_ms=context_attention / speed,
        decode_attention_sequences=sequences,
        decode_attention_kv=kv,
        decode_attention_ms=sequences[:, None] * kv[None, :] * 2e-5 / speed,
        provenance=PROVENANCE,
    )


@dataclass
class FakePieces:
    """`boost`: speed of one accelerator beside the table above. `memory_bytes`: of each accelerator; `weights`: of the
    model. The sketch is off by `sketch_error`, as a roofline is."""

    boost: dict[str, float] = field(default_factory=dict)
    memory_bytes: float = 80e9
    weights: float = 140e9
    sketch_error: float = 1.2
    engine_speed: dict[str, float] = field(default_factory=lambda: {"vllm": 1.0, "sglang": 0.97, "trtllm-serve": 1.02})
    one_scheduler: bool = True
    tables: list[str] = field(default_factory=list)

    def _speed(self, shape: Shape) -> float:
        case = shape.case
        speed = _SPEED[case.accelerator] * self.boost.get(case.accelerator, 1.0)
        # splitting costs: nine tenths of the gain of each doubling
        return float(speed * self.engine_speed[case.engine] * case.tensor_parallel**0.85)

    def sketch(self, shape: Shape) -> StepTable:
        return table(self._speed(shape) / self.sketch_error)

    def table(self, shape: Shape) -> StepTable:
        self.tables.append(shape.label)
        return table(self._speed(shape))

    def room(self, shape: Shape, scheduler: Scheduler, longest_tokens: int) -> Room:
        ranks = shape.case.tensor_parallel * shape.case.pipeline_parallel
        left = self.memory_bytes * 0.9 - self.weights / ranks
        per_token = 320e3 / ranks
        short = max(0.0, longest_tokens * per_token - left)
        said = f"needs {self.weights / ranks / 1e9:.1f} GB of weights, {short:.0f} bytes short" if short else ""
        return Room(
            kv_tokens=max(left, 0.0) / per_token,
            short_bytes=int(short),
            weight_bytes=int(self.weights / ranks),
            message=said,
        )

    def schedulers(self, shape: Shape) -> list[Scheduler]:
        usual = [Scheduler(max_num_seqs=256, max_num_batched_tokens=8192)]
        return usual if self.one_scheduler else [*usual, Scheduler(max_num_seqs=64, max_num_batched_tokens=2048)]

    def least_watts(self, shape: Shape) -> float:
        return 100.0

    def replica(self, unit: Unit, role: Role, draws: Draws, load: float, static: Static) -> Outcome:
        ttft, tpot = self._queue(unit, role, draws, load)
        return Outcome(ttft_ms=ttft, tpot_ms=tpot)

    def _queue(self, unit: Unit, role: Role, draws: Draws, load: float):
        """Prompts wait for each other in one queue (Lindley); decode time follows from the static estimate."""
        asked = Slo(ttft_ms=LatencyTarget(p50=1))
        static = estimates(unit.shape, table(self._speed(unit.shape)), draws, [unit.scheduler], 1e9, asked)[0]
        count = 2000
        prompt_s = static.ttft_floor_ms["p50"] / 1e3 * draws.input_tokens[:count] / np.median(draws.input_tokens)
        at = draws.at[:count] / load if draws.at is not None else np.zeros(count)
        free, ttft = 0.0, np.empty(count)
        for i in range(count):
            start = max(free, at[i])
            free = start + prompt_s[i] * 0.5
            ttft[i] = (start - at[i] + prompt_s[i]) * 1e3
        spread = 0.9 + 0.2 * draws.output_tokens[:count] / draws.output_tokens.max()
        return ttft, static.tpot_ms(load) * spread

    def predict(self, deployment: Deployment, request: PlanRequest, draws: Draws) -> Prediction:
        asked = draws.rate_per_second or 1.0
        total = sum(group.replicas for group in deployment.groups if group.role == "aggregated")
        ttft, tpot = [], []
        for group in deployment.groups:
            share = asked / (total or group.replicas)
            one_ttft, one_tpot = self._queue(group.unit, group.role, draws, share)
            if group.role != "decode":
                ttft.append(one_ttft)
            if group.role != "prefill":
                tpot.append(one_tpot)
        ttft_ms, tpot_ms = np.concatenate(ttft), np.concatenate(tpot)
        share = attained(ttft_ms[: len(tpot_ms)], tpot_ms, request.slo)
        return Prediction(
            ttft_ms=quantiles(ttft_ms),
            tpot_ms=quantiles(tpot_ms),
            e2e_ms=quantiles(ttft_ms),
            goodput_per_second=asked * share,
            slo_attained=share,
            tokens_per_second_per_accelerator=asked * draws.mean_output / deployment.accelerators,
            kv_fraction_peak=0.5,
            power_w=400.0 * deployment.accelerators,
            provenance=PROVENANCE,
        )


def attained(ttft_ms, tpot_ms, slo: Slo) -> float:
    keeps = np.ones(len(ttft_ms), dtype=bool)
    for target, values in ((slo.ttft_ms, ttft_ms), (slo.tpot_ms, tpot_ms)):
        if limits(target):
            keeps &= values <= limits(target)[-1][1]
    return float(keeps.mean())


def quantiles(values) -> Quantiles:
    mean = float(values.mean())
    points = {name: float(np.percentile(values, share)) for name, share in
              (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99))}  # fmt: skip
    return Quantiles(mean=mean, lo=mean * 0.8, hi=mean * 1.2, **points)


def pool(name: str = "h100", accelerator: str = "h100-sxm-80gb", free: int = 32, **more: object) -> PlannablePool:
    return PlannablePool(name=name, accelerator=accelerator, free=free, **more)


def request(**changes: object) -> PlanRequest:
    """A 70B model on 32 H100 with vLLM; 8 requests/s of 1,024 in and 256 out."""
    values: dict[str, object] = {
        "model": "llama-3.1-70b",
        "slo": Slo(ttft_ms=LatencyTarget(p95=1000), tpot_ms=LatencyTarget(p95=50)),
        "workload": Workload(
            rate_per_second=8.0,
            input=Lengths(tokens=1024, range_ratio=0.8),
            output=Lengths(tokens=256, range_ratio=0.8),
        ),
        "pools": [pool()],
        "allowed": Allowed(engines=["vllm"]),
    }
    return PlanRequest(**{**values, **changes})
