"""Whether what saves memory goes together: partial recomputation, sharding groups, offload, context parallel modes."""

from __future__ import annotations

from controlplane.model.errors import InvalidSpec
from controlplane.model.training import TrainingCase


def check_memory_saving(case: TrainingCase) -> None:
    """Raises InvalidSpec that names the field, its value, the limit and the way out."""
    _recomputation(case)
    _groups(case)
    _offload(case)
    _heads(case)
    _latent(case)


def _recomputation(case: TrainingCase) -> None:
    plan = case.plan
    if not plan.recompute_layers:
        return
    if plan.recompute != "full":
        raise InvalidSpec(
            "counts layers of full recomputation", field="recompute_layers", value=plan.recompute_layers,
            limit="0 here", hint='or "recompute": "full"',
        )  # fmt: skip
    most = max(-(-max(plan.layers_per_stage or (-(-case.model.layers // plan.pp),)) // plan.vpp), 1)
    if plan.recompute_layers > most:
        raise InvalidSpec(
            "more layers than a chunk has", field="recompute_layers", value=plan.recompute_layers, limit=f"0 to {most}"
        )


def _groups(case: TrainingCase) -> None:
    plan, ranks = case.plan, case.plan.dp * case.plan.cp
    for name, level in (("weight_group", 3), ("gradient_group", 2), ("secondary_group", 3)):
        size = getattr(plan, name)
        if size and ranks % size:
            raise InvalidSpec(
                "does not divide the data-parallel ranks",
                field=name,
                value=size,
                limit=f"a divisor of dp x cp = {ranks}",
            )
        if size and plan.zero < level:
            raise InvalidSpec(
                f"groups what zero {level} shards", field=name, value=size, limit="0 here", hint=f'or "zero": {level}'
            )
    if plan.weight_group and plan.gradient_group and plan.gradient_group % plan.weight_group:
        raise InvalidSpec(
            "gradients are summed over whole weight groups", field="gradient_group", value=plan.gradient_group,
            limit=f"a multiple of weight_group = {plan.weight_group}",
        )  # fmt: skip


def _offload(case: TrainingCase) -> None:
    plan = case.plan
    most = max(plan.layers_per_stage or (-(-case.model.layers // plan.pp),))
    if plan.offload_layers > most:
        raise InvalidSpec(
            "more layers than a stage has", field="offload_layers", value=plan.offload_layers, limit=f"0 to {most}"
        )
    if plan.offload_layers and plan.recompute != "none" and not plan.recompute_layers:
        raise InvalidSpec(
            "a recomputed layer has nothing to offload", field="offload_layers", value=plan.offload_layers, limit="0",
            hint="recompute fewer layers, or none",
        )  # fmt: skip


def _heads(case: TrainingCase) -> None:
    plan, model = case.plan, case.model
    if plan.cp_mode == "ulysses" and (model.heads // plan.tp) % plan.cp:
        raise InvalidSpec(
            "Ulysses gives every rank whole heads", field="cp", value=plan.cp,
            limit=f"a divisor of model.heads / tp = {model.heads // plan.tp}", hint='or "cp_mode": "ring"',
        )  # fmt: skip


def _latent(case: TrainingCase) -> None:
    model = case.model
    if model.kv_rank:
        for name, most in (("rope_dim", model.head_dim - 1), ("value_dim", None)):
            value = getattr(model, name)
            if value < 1 or (most is not None and value > most):
                raise InvalidSpec(
                    "latent attention needs it", field=f"model.{name}", value=value,
                    limit="1 or more" if most is None else f"1 to {most}",
                )  # fmt: skip
        return
    for name in ("q_rank", "rope_dim", "value_dim"):
        if getattr(model, name):
            raise InvalidSpec(
                "belongs to latent attention", field=f"model.{name}", value=getattr(model, name), limit="0",
                hint="give model.kv_rank, too",
            )  # fmt: skip
