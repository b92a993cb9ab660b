"""A question's deployment as the replay's fleet: engines, their rules and memory, the router, the link between roles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast, get_args

from controlplane.catalog import load, unknown
from controlplane.model.errors import Unsupported
from controlplane.model.plans import Role
from tuner.serving.case import EngineCase
from tuner.serving.knobs import Settings, read_knobs
from tuner.serving.memory import MemoryBudget, memory_budget
from tuner.serving.question import Degrees, KnobValue, Question, RoleShape
from tuner.serving.replay.fleet import Fleet, KvLink, Replica, Router
from tuner.serving.replay.rules import EngineRules, rules_with_knobs
from tuner.serving.resolve import engine_case
from tuner.serving.step.roofline_links import links_of

# vLLM and SGLang start with smaller budgets on devices below this (vllm/engine/arg_utils.py, sglang server_args.py)
_SMALL_DEVICE_BYTES = 70 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Equal replicas of one role. `kv_blocks` of each attention rank; None: not bounded."""

    role: Role
    case: EngineCase
    count: int
    rules: EngineRules
    kv_blocks: int | None
    memory: MemoryBudget
    warnings: tuple[str, ...]

    @property
    def accelerators(self) -> int:
        """Of all its replicas."""
        return self.count * self.case.accelerators


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What serves one endpoint."""

    members: tuple[Member, ...]
    router: Router
    link: KvLink | None

    @property
    def accelerators(self) -> int:
        """All of them."""
        return sum(member.accelerators for member in self.members)


def deployment_of(question: Question, longest_tokens: int) -> Deployment:
    """Raises UnknownName, InvalidSpec or Unsupported with the field at fault. `longest_tokens`: prompt plus output of
    the longest request."""
    router = _router(question.router)
    if question.degrees is not None:
        member = _member(
            question, "aggregated", question.degrees, question.system, question.replicas, question.knobs, longest_tokens
        )
        return Deployment(members=(member,), router=router, link=None)
    assert question.prefill is not None and question.decode is not None
    prefill = _role(question, "prefill", question.prefill, longest_tokens)
    if not load().engine(prefill.case.engine).capabilities.pd_split:
        raise Unsupported(f"{prefill.case.engine} has no separate prefill and decode roles", field="disagg")
    decode = _role(question, "decode", question.decode, longest_tokens)
    return Deployment(members=(prefill, decode), router=router, link=_kv_link(prefill))


def fleet_of(deployment: Deployment, replica: Callable[[Member], Replica]) -> Fleet:
    """The fleet whose replicas `replica` makes of each member: it knows step tables and corrections."""
    replicas: list[Replica] = []
    for member in deployment.members:
        replicas += [replica(member)] * member.count
    return Fleet(replicas=tuple(replicas), router=deployment.router, link=deployment.link)


def _role(question: Question, role: Role, shape: RoleShape, longest_tokens: int) -> Member:
    knobs: dict[str, KnobValue] = {**question.knobs, **shape.knobs}
    if shape.max_batch is not None:
        knobs.setdefault("max_num_seqs", shape.max_batch)
    system = shape.system or question.system
    path = f"disagg.{role}"
    return _member(question, role, shape.degrees, system, shape.workers, knobs, longest_tokens, path)


def _member(
    question: Question,
    role: Role,
    degrees: Degrees,
    system: str,
    count: int,
    knobs: Any,
    longest_tokens: int,
    path: str = "",
) -> Member:
    fields = _fields(question, degrees, system)
    case = engine_case(fields)
    settings = read_knobs(case.engine, knobs, path=f"{path}.knobs" if path else "knobs")
    if settings.kv_format is not None and case.kv_quant is None:
        case = engine_case(fields | {"kv_quant": settings.kv_format})
    rules = _rules(case, settings, question, longest_tokens)
    memory = memory_budget(
        case,
        max_num_tokens=rules.token_budget,
        fraction=settings.memory_fraction,
        block_tokens=rules.block_tokens,
    )
    warnings = [f"{name}: not modelled" for name in settings.ignored] + list(settings.remarks)
    blocks = _kv_blocks(settings, rules, memory, longest_tokens, warnings)
    return Member(
        role=role, case=case, count=count, rules=rules, kv_blocks=blocks, memory=memory, warnings=tuple(warnings)
    )


def _fields(question: Question, degrees: Degrees, system: str) -> dict[str, Any]:
    fields = {
        "model": question.model,
        "system": system,
        "backend": question.backend,
        "backend_version": question.backend_version,
        "tp": degrees.tp,
        "pp": degrees.pp,
        "attention_dp": degrees.attention_dp,
        "moe_tp": degrees.moe_tp,
        "moe_ep": degrees.moe_ep,
        "gemm_quant": question.gemm_quant,
        "moe_quant": question.moe_quant,
        "kv_quant": question.kv_quant,
        "draft_tokens": question.draft_tokens,
        "nic": question.nic,
        "nics_per_node": question.nics_per_node,
        "accelerators_per_node": question.accelerators_per_node,
        "cores": question.cores,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _rules(case: EngineCase, settings: Settings, question: Question, longest_tokens: int) -> EngineRules:
    accelerator = load().accelerator(case.accelerator)
    memory = accelerator.plannable_memory_bytes
    small = memory is not None and (memory < _SMALL_DEVICE_BYTES or case.accelerator.startswith("a100-"))
    rules = rules_with_knobs(case.engine, settings.admission, small_device=small, context_tokens=longest_tokens)
    if case.engine == "trtllm-serve" and "maxNumBatchedTokens" not in settings.admission and not rules.chunked:
        # An engine that does not split prompts is started with room for its longest one beside its running requests.
        running = question.arrivals.clients or 0
        rules = replace(rules, token_budget=max(rules.token_budget, longest_tokens + running))
    return rules


def _kv_blocks(
    settings: Settings, rules: EngineRules, memory: MemoryBudget, longest_tokens: int, warnings: list[str]
) -> int | None:
    """Blocks of each rank. Memory formulas are no veto: engines run what they call too large, so a prediction goes on
    and says so."""
    if settings.kv_blocks is not None:
        return settings.kv_blocks
    if settings.kv_tokens is not None:
        return max(1, settings.kv_tokens // rules.block_tokens)
    said = memory.warning()
    if said is not None:
        warnings.append(f"{said}; predicted as if the KV cache were not bounded")
        return None
    blocks, needed = memory.kv_blocks(), math.ceil(longest_tokens / rules.block_tokens)
    if blocks is not None and blocks < needed:
        warnings.append(
            f"memory: room for {blocks * rules.block_tokens} tokens of KV cache, the longest request has "
            f"{longest_tokens}; predicted with room for one such request"
        )
        return needed
    return blocks


def _kv_link(prefill: Member) -> KvLink:
    """KV leaves a prefill replica over the network links of all its accelerators."""
    case = prefill.case
    catalog = load()
    accelerator = catalog.accelerator(case.accelerator)
    link = links_of(case, accelerator, catalog).far
    shards = case.tensor_parallel * case.pipeline_parallel
    return KvLink(
        bytes_per_token=prefill.memory.kv_bytes_per_token * shards,
        bytes_per_s=link.bytes_per_s * shards,
        latency_s=link.latency_ms / 1e3,
    )


def _router(name: str | None) -> Router:
    known = get_args(Router)
    if name is None:
        return "random"
    if name not in known:
        raise unknown("router", name, known, field="router")
    return cast(Router, name)
