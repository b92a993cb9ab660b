"""Whether a case can exist at all: what divides what, and how many accelerators there are."""

from __future__ import annotations

from controlplane.model.errors import InvalidSpec, Unsupported
from controlplane.model.training import FOLDED, TrainingCase
from tuner.training.checks_saving import check_memory_saving
from tuner.training.folded import MOST_STAGES

_ZERO_BUBBLE = ("zb-h1", "zb-h2", "zb-1p", "zb-2p", "zb-v", "v-half", "v-min")


def check(case: TrainingCase) -> None:
    """Raises InvalidSpec or Unsupported that name the field, its value, the limit and the way out."""
    _shapes(case)
    _pipeline(case)
    _pools(case)
    _experts(case)
    check_memory_saving(case)


def _shapes(case: TrainingCase) -> None:
    model, plan = case.model, case.plan
    _divides("tp", plan.tp, "model.heads", model.heads)
    if model.kv_heads % plan.tp and plan.tp % model.kv_heads:
        raise InvalidSpec(
            "key-value heads and tensor parallelism do not divide", field="tp", value=plan.tp,
            limit=f"a divisor or a multiple of model.kv_heads = {model.kv_heads}",
        )  # fmt: skip
    _divides("model.kv_heads", model.kv_heads, "model.heads", model.heads)
    _divides("tp", plan.tp, "model.ffn", model.ffn)
    _divides("cp", plan.cp, "model.seq", model.seq)
    per_step = plan.dp * plan.micro_batch
    if plan.global_batch % per_step:
        raise InvalidSpec(
            "does not divide into micro-batches", field="global_batch", value=plan.global_batch,
            limit=f"a multiple of dp x micro_batch = {per_step}",
            hint=f"{plan.global_batch // per_step * per_step or per_step} would",
        )  # fmt: skip
    if plan.sp and plan.tp == 1:
        raise InvalidSpec(
            "sequence parallelism splits over tensor parallel ranks", field="sp", value=True,
            limit="tp of at least 2", hint="raise tp or leave sp out",
        )  # fmt: skip


def _pipeline(case: TrainingCase) -> None:
    model, plan = case.model, case.plan
    layers = plan.layers_per_stage
    if layers and (len(layers) != plan.pp or sum(layers) != model.layers):
        raise InvalidSpec(
            f"holds {len(layers)} stages and {sum(layers)} layers", field="layers_per_stage", value=list(layers),
            limit=f"pp = {plan.pp} numbers that add up to model.layers = {model.layers}",
        )  # fmt: skip
    if not layers and plan.pp > model.layers:
        raise InvalidSpec("more stages than layers", field="pp", value=plan.pp, limit=f"1 to {model.layers}")
    if plan.schedule in FOLDED:
        _folded(case)
    elif plan.vpp > 1:
        if plan.schedule != "interleaved":
            raise InvalidSpec(
                "virtual stages need the interleaved schedule", field="vpp", value=plan.vpp, limit="1",
                hint='or "schedule": "interleaved"',
            )  # fmt: skip
        if plan.pp == 1:
            raise InvalidSpec("virtual stages need a pipeline", field="vpp", value=plan.vpp, limit="1 when pp is 1")
        if plan.vpp > max(plan.layers_per_stage or (model.layers // plan.pp,)):
            raise InvalidSpec(
                "more virtual stages than layers", field="vpp", value=plan.vpp,
                limit=f"up to model.layers / pp = {model.layers // plan.pp}",
            )  # fmt: skip
        if plan.micro_batches % plan.pp:
            raise InvalidSpec(
                "the interleaved schedule takes micro-batches in groups of pp", field="global_batch",
                value=plan.global_batch,
                limit=f"a multiple of dp x micro_batch x pp = {plan.dp * plan.micro_batch * plan.pp}",
            )  # fmt: skip
    if plan.schedule in _ZERO_BUBBLE and plan.recompute == "full":
        raise Unsupported(
            "zero-bubble schedules split the backward pass; with full recomputation that is not offered",
            field="recompute", value="full", limit="none, selective",
        )  # fmt: skip


def _folded(case: TrainingCase) -> None:
    plan = case.plan
    if plan.vpp != 2:
        raise InvalidSpec(f"{plan.schedule} folds two chunks onto a stage", field="vpp", value=plan.vpp, limit="2")
    if plan.pp < 2:
        raise InvalidSpec(f"{plan.schedule} needs a pipeline", field="pp", value=plan.pp, limit="2 or more")
    if plan.pp > MOST_STAGES:
        raise InvalidSpec(
            f"too many stages to fold for {plan.schedule}", field="pp", value=plan.pp, limit=f"2 to {MOST_STAGES}",
            hint='or "schedule": "1f1b"',
        )  # fmt: skip
    if 2 * plan.pp > case.model.layers:
        raise InvalidSpec("more chunks than layers", field="pp", value=plan.pp, limit=f"1 to {case.model.layers // 2}")


def _pools(case: TrainingCase) -> None:
    plan = case.plan
    have = sum(pool.gpus for pool in case.pools)
    if plan.ranks > have:
        raise InvalidSpec(
            f"tp x pp x dp x cp takes {plan.ranks} accelerators", field="cluster.gpus", value=have,
            limit=f"at least {plan.ranks}", hint="add nodes or lower a degree",
        )  # fmt: skip
    for index, pool in enumerate(case.pools):
        path = "cluster" if len(case.pools) == 1 else f"cluster[{index}]"
        if pool.gpus > pool.gpus_per_node and pool.gpus % pool.gpus_per_node:
            raise InvalidSpec(
                "nodes are whole", field=f"{path}.gpus", value=pool.gpus,
                limit=f"a multiple of gpus_per_node = {pool.gpus_per_node}",
            )  # fmt: skip
        several = pool.gpus > pool.gpus_per_node or len(case.pools) > 1
        if several and plan.ranks > pool.gpus_per_node and pool.inter_gb_s is None and pool.nic is None:
            raise InvalidSpec(
                "how nodes reach each other is not said", field=f"{path}.nic", limit="a NIC class or inter_gb_s",
                hint='add "nic": "ib-ndr-400" and "nics_per_node": 8, or "inter_gb_s"',
            )  # fmt: skip
    if case.stage_pools and len(case.stage_pools) != plan.pp:
        raise InvalidSpec(
            "one pool for each stage", field="stage_pools", value=list(case.stage_pools), limit=f"{plan.pp} numbers"
        )


def _experts(case: TrainingCase) -> None:
    model, plan = case.model, case.plan
    if model.experts == 0:
        if plan.ep > 1:
            raise InvalidSpec("no experts to spread", field="ep", value=plan.ep, limit="1 for a dense model")
        return
    if not 1 <= model.top_k <= model.experts:
        raise InvalidSpec("more experts per token than there are", field="model.top_k", value=model.top_k,
                          limit=f"1 to {model.experts}")  # fmt: skip
    if model.moe_layers > model.layers:
        raise InvalidSpec("more expert layers than layers", field="model.moe_layers", value=model.moe_layers,
                          limit=f"0 to {model.layers}")  # fmt: skip
    _divides("ep", plan.ep, "model.experts", model.experts)
    spread = plan.dp * plan.cp * plan.tp
    _divides("etp", plan.etp, "tp", plan.tp)
    if spread % (plan.ep * plan.etp):
        raise InvalidSpec("experts spread over the ranks of one stage", field="ep", value=plan.ep,
                          limit=f"a divisor of dp x cp x tp = {spread}")  # fmt: skip


def _divides(field: str, value: int, what: str, total: int) -> None:
    if total % value:
        raise InvalidSpec(
            f"does not divide {what}", field=field, value=value, limit=f"a divisor of {what} = {total}",
            hint=f"nearest: {max(n for n in range(1, min(value, total) + 1) if total % n == 0)}",
        )  # fmt: skip
