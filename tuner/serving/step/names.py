"""Catalogue ids to the names that the measured tables use. Reads facts only; the tables' package is not imported."""

from __future__ import annotations

from controlplane import catalog
from tuner.serving.case import EngineCase

# Backends of aiconfigurator-core. openvino has no measured tables.
BACKENDS = {"vllm": "vllm", "sglang": "sglang", "trtllm-serve": "trtllm"}

# Catalogue models whose own repository ids are not shipped with the tables, and the shipped id of the same shape.
# The catalogue keeps quantised repackagings under one id; the plain checkpoint comes first where both are shipped.
_SAME_SHAPE = {
    "llama-3-8b": "meta-llama/Meta-Llama-3.1-8B",
    "llama-3-70b": "meta-llama/Meta-Llama-3.1-70B",
    "llama-3.3-70b": "meta-llama/Meta-Llama-3.1-70B",
    "glm-5": "zai-org/GLM-5",
}


def system_name(accelerator: str) -> str | None:
    """Name of an accelerator's measured tables. None: it has none."""
    return catalog.load().accelerator(accelerator, field="accelerator").aiconfigurator_system


def backend_name(engine: str) -> str | None:
    """Name of an engine's measured tables. None: it has none."""
    return BACKENDS.get(engine)


def model_candidates(case: EngineCase) -> tuple[str, ...]:
    """Repository ids under which the tables may know the model, best first."""
    model = catalog.load().model(case.model, field="model")
    named = [_SAME_SHAPE.get(model.id), model.hf_repo, *model.aliases]
    return tuple(dict.fromkeys(name for name in named if name is not None))
