"""What failures make of a plan: the share of time that trains, when to write checkpoints, how many spare nodes to hold,
and what the published elastic rules would keep with a node lost. Everything here is a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from controlplane.model.errors import InvalidSpec, Refused, TrimtabError, UnknownName
from controlplane.model.training import TrainingCase
from tuner.training.columns import columns
from tuner.training.constants import Constants
from tuner.training.elastic import RULES, ElasticJob, share
from tuner.training.hardware import hardware
from tuner.training.planner.answer import Planner, Ranked, TrainingAnswer
from tuner.training.planner.explain import summary
from tuner.training.planner.exports import case_of
from tuner.training.planner.question import PlanQuestion
from tuner.training.planner.ranks import pool_names
from tuner.training.resilience import PUBLISHED_RATES, Run, best_interval_s, ettr, goodput_tokens_per_s, spare_nodes
from tuner.training.seats import stage_pools

_WORK = ("compute", "collectives in layers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """What fails and how long things take. `checkpoint_gb_s_per_node`: how fast a node writes while training waits."""

    per_node_day: float
    source: str
    checkpoint_gb_s_per_node: float = 1.0
    restart_s: float = 900.0  # MegaScale (NSDI'24): back at work within 15 minutes
    detect_s: float = 60.0
    repair_s: float = 86400.0
    confidence: float = 0.99

    def __post_init__(self) -> None:
        for name in ("checkpoint_gb_s_per_node", "restart_s", "detect_s", "repair_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0.0):
                raise InvalidSpec("not a time or rate", field=name, value=value, limit="a finite number above 0")


def failures_of(text: str, **times: float) -> Failures:
    """`llama3`, `rsc-1`, `rsc-2` (published rates) or failures per node and day. Raises UnknownName or InvalidSpec."""
    if text in PUBLISHED_RATES:
        rate = PUBLISHED_RATES[text]
        return Failures(per_node_day=rate.per_node_day, source=rate.source, **times)
    try:
        value = float(text)
    except ValueError:
        known = ", ".join(PUBLISHED_RATES)
        raise UnknownName(
            "no published rate", field="failures", value=text[:40], hint=f"{known}, or failures per node and day"
        ) from None
    if not (math.isfinite(value) and 0.0 <= value < 1.0):
        raise InvalidSpec("not a rate", field="failures", value=text[:40], limit="0 to 1 per node and day")
    return Failures(per_node_day=value, source="as given", **times)


def under_failures(answer: TrainingAnswer, item: Ranked, failures: Failures, constants: Constants) -> dict[str, Any]:
    """The plan's nodes, checkpoint, interval, share of time that trains, spares, and the elastic rules, as plain
    data."""
    case = case_of(answer, item)
    nodes = _nodes(case)
    size = _checkpoint_bytes(case, item.predicted)
    run = Run(
        nodes=nodes,
        failures_per_node_day=failures.per_node_day,
        checkpoint_s=size / (failures.checkpoint_gb_s_per_node * 1e9 * nodes),
        restart_s=failures.restart_s,
    )
    interval = best_interval_s(run)
    kept = ettr(run, interval)
    tokens = case.plan.global_batch * case.model.seq
    finite = math.isfinite(run.mtbf_s)
    return {
        "basis": "model",
        "failures_per_node_day": failures.per_node_day,
        "source": failures.source,
        "nodes": nodes,
        "mtbf_s": run.mtbf_s if finite else None,
        "checkpoint_bytes": round(size),
        "checkpoint_s": run.checkpoint_s,
        "checkpoint_interval_s": interval if finite else None,
        "restart_s": failures.restart_s,
        "ettr": kept,
        "tokens_per_s": goodput_tokens_per_s(tokens, item.predicted["iteration_s"], kept),
        "spare_nodes": spare_nodes(nodes, failures.per_node_day, failures.repair_s, confidence=failures.confidence),
        "assumed": {
            "checkpoint_gb_s_per_node": failures.checkpoint_gb_s_per_node, "detect_s": failures.detect_s,
            "repair_s": failures.repair_s, "spares_suffice_with": failures.confidence,
        },
        "rules": _rules(case, item, failures, constants) if finite else [],
    }  # fmt: skip


def after_loss(
    planner: Planner, question: PlanQuestion, before: Ranked, *, limit_s: float | None = None
) -> list[dict[str, Any]]:
    """A plan made anew without one node, for every pool the plan stands on: what an iteration takes then. `limit_s`: of
    all these searches together."""
    found, names = [], pool_names(question.case)
    places = sorted(set(before.stage_pools or (0,)))
    each_s = None if limit_s is None else limit_s / len(places)
    for index in places:
        pool = question.case.pools[index]
        left = pool.gpus - pool.gpus_per_node
        said: dict[str, Any] = {"pool": names[index], "gpus_left": left}
        try:
            if left <= 0:
                raise Refused("no node of the pool is left", field="pool", value=pool.gpu, limit="1 node")
            pools = tuple(
                replace(each, gpus=left) if at == index else each for at, each in enumerate(question.case.pools)
            )
            after = planner.plan(
                replace(question, case=replace(question.case, pools=pools)), top=1, limit_s=each_s
            ).best[0]
            took = after.predicted["iteration_s"]
            said |= {
                "iteration_s": took, "slowdown": took / before.predicted["iteration_s"], "plan": summary(after.plan)
            }  # fmt: skip
        except TrimtabError as error:
            said["error"] = str(error)
        found.append(said)
    return found


def _nodes(case: TrainingCase) -> int:
    stages, plan = stage_pools(case), case.plan
    each = plan.ranks // plan.pp
    return sum(-(-each * stages.count(index) // case.pools[index].gpus_per_node) for index in sorted(set(stages)))


def _checkpoint_bytes(case: TrainingCase, predicted: Mapping[str, Any]) -> float:
    """Weights once and optimizer state once: replicas hold copies, or shards of one."""
    plan, memory = case.plan, predicted["memory"]
    whole = plan.tp  # ranks that hold different parts of a stage beside shards; experts spread over replicas, too
    weights = sum(memory["weights"]) * whole * (plan.dp * plan.cp if plan.zero > 2 else 1)
    state = sum(memory["optimizer"]) * whole * (plan.dp * plan.cp if plan.zero > 0 else 1)
    spread = plan.ep * plan.etp / plan.tp if case.model.experts else 1.0
    return float((weights + state) * max(spread, 1.0))


def _rules(case: TrainingCase, item: Ranked, failures: Failures, constants: Constants) -> list[dict[str, Any]]:
    """Node by node: a stage's nodes are its replicas, or where a node holds several stages, it is one stage."""
    plan, stages = case.plan, stage_pools(case)
    per_node = min(case.pools[index].gpus_per_node for index in stages)
    each = plan.ranks // plan.pp
    dp, pp = max(each // per_node, 1), plan.pp if each >= per_node else max(-(-plan.ranks // per_node), 1)
    work = sum(item.terms_s[name] for name in _WORK) / plan.micro_batches * plan.pp / pp
    held = sum(item.predicted["memory"]["weights"]) + sum(item.predicted["memory"]["optimizer"])
    rows = columns([(case, index) for index in sorted(set(stages))], tuple(constants.accelerators))
    job = ElasticJob(
        dp=dp, pp=pp, micro_batches=plan.micro_batches, forward_s=work / 3.0, backward_s=work / 3.0, weight_s=work / 3.0,
        state_bytes=per_node * held / plan.pp, detect_s=failures.detect_s,
        copy_bytes_per_s=float(np.min(hardware(rows, constants).node)),
    )  # fmt: skip
    run = Run(
        nodes=job.nodes, failures_per_node_day=failures.per_node_day, checkpoint_s=1.0, restart_s=failures.restart_s
    )
    found = []
    for name, price in RULES.items():
        cost = price(job, 1) if job.nodes > 1 else None
        found.append({
            "rule": name,
            "slowdown_one_lost": None if cost is None or not math.isfinite(cost.slowdown) else cost.slowdown,
            "recovery_s": None if cost is None else cost.recovery_s,
            "tolerates": 0 if cost is None else cost.tolerates,
            "share": share(name, job, run, failures.repair_s),
            "source": price(job, 0).source,
            "estimate": True,
        })  # fmt: skip
    return found
