"""What an engine case may look like. The measured tables answer anything, so absurd input is refused here."""

from __future__ import annotations

from controlplane import catalog
from controlplane.model.errors import InvalidSpec
from tuner.serving.case import EngineCase
from tuner.serving.step.roofline_formats import canonical_kv, canonical_weight

_RANGES = {
    "tensor_parallel": (1, 512),
    "pipeline_parallel": (1, 64),
    "attention_data_parallel": (1, 512),
    "moe_tensor_parallel": (1, 512),
    "moe_expert_parallel": (1, 512),
    "draft_tokens": (0, 64),
}


def check(case: EngineCase) -> None:
    """Raises UnknownName for names the catalogue lacks and InvalidSpec for a case that no engine could be."""
    facts = catalog.load()
    model = facts.model(case.model, field="model")
    facts.accelerator(case.accelerator, field="accelerator")
    for field, (low, high) in _RANGES.items():
        value = getattr(case, field)
        if not low <= value <= high:
            raise InvalidSpec("out of range", field=field, value=value, limit=f"{low} to {high}")
    for field, word in (("gemm_quant", case.gemm_quant), ("moe_quant", case.moe_quant)):
        if word is not None:
            canonical_weight(word, field=field)
    if case.kv_quant is not None:
        canonical_kv(case.kv_quant, field="kv_quant")
    if model.heads % case.tensor_parallel:
        raise InvalidSpec(
            f"{model.heads} attention heads do not divide by the tensor-parallel size",
            field="tensor_parallel",
            value=case.tensor_parallel,
            limit=f"a divisor of {model.heads}",
        )
    if case.pipeline_parallel > model.layers:
        raise InvalidSpec(
            "more pipeline stages than layers",
            field="pipeline_parallel",
            value=case.pipeline_parallel,
            limit=f"at most {model.layers}",
        )
    _check_experts(case, model.moe.experts if model.moe is not None else None)


def _check_experts(case: EngineCase, experts: int | None) -> None:
    width = case.tensor_parallel * case.attention_data_parallel
    expert_width = case.moe_tensor_parallel * case.moe_expert_parallel
    if experts is None:
        if expert_width != 1:
            raise InvalidSpec(
                "the model has no experts", field="moe_expert_parallel", value=case.moe_expert_parallel, limit="1"
            )
        return
    if width != expert_width:
        raise InvalidSpec(
            "experts are spread over another number of ranks than attention",
            field="moe_expert_parallel",
            value=f"{case.moe_tensor_parallel} x {case.moe_expert_parallel}",
            limit=f"moe_tensor_parallel x moe_expert_parallel = {width}",
            hint=f"set moe_tensor_parallel to {width} (split each expert) or moe_expert_parallel (whole experts)",
        )
    if case.moe_expert_parallel > experts:
        raise InvalidSpec(
            "more expert-parallel ranks than experts",
            field="moe_expert_parallel",
            value=case.moe_expert_parallel,
            limit=f"at most {experts}",
        )
