"""A planned deployment in a few words, for conditions, events and the log. Pure."""

from __future__ import annotations

from controlplane.model.auto import PlannedCandidate
from controlplane.model.plans import ServingCandidate


def shape_text(candidate: ServingCandidate | PlannedCandidate) -> str:
    """`2 x h100-sxm-80gb vllm tp4 in pool a`."""
    roles = candidate.roles if isinstance(candidate, ServingCandidate) else candidate.choices
    parts = []
    for role in roles:
        choice = role.choice
        degrees = {
            "tp": choice.tensor_parallel,
            "pp": choice.pipeline_parallel,
            "dp": choice.data_parallel,
            "ep": choice.expert_parallel,
        }
        shown = "".join(f" {name}{degree}" for name, degree in degrees.items() if degree > 1 or name == "tp")
        split = "" if role.role == "aggregated" else f" {role.role}"
        quantization = "" if choice.quantization is None else f" {choice.quantization}"
        parts.append(
            f"{role.replicas} x {choice.accelerator} {choice.engine}{shown}{quantization}{split} in pool {role.pool}"
        )
    return ", ".join(parts)
