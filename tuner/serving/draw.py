"""Energy and cost of a replayed deployment. What is unknown of one accelerator is unknown of the whole."""

from __future__ import annotations

from dataclasses import dataclass, replace

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec
from tuner.serving.case import EngineCase
from tuner.serving.deployment import Deployment, Member
from tuner.serving.energy import clock_factors, energy
from tuner.serving.replay.result import ReplayResult, ReplicaUse
from tuner.serving.step.table import StepTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """Of all accelerators. None: unknown."""

    power_w: float | None = None
    power_error_pct: float | None = None  # within it in nine of ten measured runs
    joules_per_output_token: float | None = None
    cost_per_million_output_tokens: float | None = None
    currency: str | None = None


def draw_of(
    result: ReplayResult,
    deployment: Deployment,
    *,
    cap_w: float | None,
    price_per_accelerator_hour: float | None,
    currency: str,
) -> Draw:
    """Iterations that hold prompts count as prefill. Raises InvalidSpec for a cap an accelerator cannot keep."""
    watts, joules, error_pct = _energy(result, deployment, cap_w)
    made = float(result.osl[~result.refused].sum())
    per_million = None
    if price_per_accelerator_hour is not None and result.output_tokens_per_s > 0:
        per_hour = price_per_accelerator_hour * deployment.accelerators
        per_million = per_hour / (result.output_tokens_per_s * 3600.0) * 1e6
    return Draw(
        power_w=watts,
        power_error_pct=error_pct,
        joules_per_output_token=None if joules is None or not made else joules / made,
        cost_per_million_output_tokens=per_million,
        currency=currency if price_per_accelerator_hour is not None else None,
    )


def capped(case: EngineCase, table: StepTable, cap_w: float) -> StepTable:
    """The table under a power limit on each accelerator. Raises InvalidSpec where no power of it is known."""
    accelerator = load().accelerator(case.accelerator)
    factors = clock_factors(accelerator, cap_w)
    if factors is None:
        raise InvalidSpec(
            f"no public document states the power of {accelerator.name}: what a cap costs is unknown",
            field="power_cap_w",
            value=cap_w,
            hint="leave it out",
        )
    prefill, decode = factors
    note = f"power cap {cap_w:g} W: prefill x{prefill:.2f}, decode x{decode:.2f}"
    return replace(
        table,
        context_ms=table.context_ms * prefill,
        context_attention_ms=table.context_attention_ms * prefill,
        decode_ms=table.decode_ms * decode,
        decode_attention_ms=table.decode_attention_ms * decode,
        provenance=table.provenance.model_copy(update={"notes": [*table.provenance.notes, note]}),
    )


def _energy(
    result: ReplayResult, deployment: Deployment, cap_w: float | None
) -> tuple[float | None, float | None, float | None]:
    """(W, J, error in percent)."""
    watts = joules = error_pct = 0.0
    at = 0
    for member in deployment.members:
        for use in result.replicas[at : at + member.count]:
            found = _replica(member, use, result.span_s, cap_w)
            if found is None:
                return None, None, None
            watts, joules, error_pct = watts + found[0], joules + found[1], max(error_pct, found[2])
        at += member.count
    return watts, joules, error_pct


def _replica(member: Member, use: ReplicaUse, span_s: float, cap_w: float | None) -> tuple[float, float, float] | None:
    accelerator = load().accelerator(member.case.accelerator)
    prompts_s = use.prefill_s + use.mixed_s
    busy_s = prompts_s + use.decode_s
    if accelerator.kind == "cpu" or span_s <= 0:
        return None  # the catalogue describes a CPU by the core: its power is the whole machine's
    with_prompts = use.iterations * prompts_s / busy_s if busy_s else 0.0
    found = energy(
        accelerator,
        accelerators=member.case.accelerators,
        prefill_s=prompts_s,
        decode_s=use.decode_s,
        idle_s=use.idle_s,
        output_tokens=use.decode_tokens,
        prefill_tokens_per_iteration=max(1.0, use.context_tokens / max(with_prompts, 1.0)),
        decode_sequences=max(1.0, use.decode_tokens / max(use.iterations, 1)),
        cap_w=cap_w,
    )
    return None if found is None else (found.power_w, found.joules, found.error_pct)
