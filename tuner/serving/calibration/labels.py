"""What a calibration may look at: labels of an engine case and of the step table that answers for it."""

from __future__ import annotations

from controlplane.catalog import load
from tuner.serving.calibration.parameters import Calibration, Distance, Support
from tuner.serving.case import EngineCase
from tuner.serving.step.table import StepTable


def labels_of(case: EngineCase, table: StepTable) -> dict[str, str]:
    """Physical classes first, names last: effects of the former are what an unseen case inherits."""
    catalog = load()
    model, accelerator = catalog.models.get(case.model), catalog.accelerators.get(case.accelerator)
    return {
        "engine": case.engine,
        "tier": table.provenance.tier,
        "precision": precision_class(case, None if model is None else model.checkpoint_dtype),
        "experts": "yes" if model is not None and model.is_moe else "no",
        "ranks": "1" if case.tensor_parallel * case.moe_expert_parallel == 1 else "many",
        "shape": "x".join(
            str(degree) for degree in (case.tensor_parallel, case.attention_data_parallel, case.moe_expert_parallel)
        ),
        "attention_dp": "yes" if case.attention_data_parallel > 1 else "no",
        "architecture": "unknown" if accelerator is None else accelerator.architecture,
        "accelerator": case.accelerator,
        "model": case.model,
    }


def precision_class(case: EngineCase, checkpoint_dtype: str | None) -> str:
    """16-bit, 8-bit or 4-bit weights: what decides which kernels run."""
    word = (case.moe_quant or case.gemm_quant or checkpoint_dtype or "bfloat16").lower()
    if "fp4" in word or "int4" in word or word.startswith(("w4", "q4")):
        return "4-bit"
    if "8" in word and "float16" not in word:
        return "8-bit"
    return "16-bit"


def support_key(*parts: str) -> str:
    """One entry of the support lists."""
    return "/".join(parts)


def distance_of(calibration: Calibration, case: EngineCase) -> Distance:
    """How far the case is from what the calibration was fitted on."""
    return distance_to(calibration.support, case.engine, case.accelerator, case.model)


def distance_to(support: Support, engine: str, accelerator: str, model: str) -> Distance:
    """How far an engine on an accelerator with a model is from those of a fit."""
    if support_key(engine, accelerator, model) in support.engine_system_models:
        return "known"
    if support_key(engine, model) in support.engine_models:
        return "known-model"
    if support_key(engine, accelerator) in support.engine_systems:
        return "known-engine"
    return "unknown"
