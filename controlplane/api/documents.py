"""The JSON documents of the API: what clients send, and what OpenAPI shows them."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from controlplane.model.cluster import GPUPoolSpec, GPUPoolStatus
from controlplane.model.resource import Part, StatusPart
from controlplane.model.serving import ChoiceVerdict, PoolReplicas, ServingDeploymentSpec, ServingDeploymentStatus

_Labels = Annotated[dict[str, str], Field(max_length=64)]

POOL_EXAMPLE: dict[str, Any] = {
    "metadata": {"name": "h100"},
    "spec": {
        "nodeSelector": {"matchLabels": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}},
        "accelerator": "h100-sxm-80gb",
        "spareNodes": 1,
    },
}
DEPLOYMENT_EXAMPLE: dict[str, Any] = {
    "metadata": {"name": "chat"},
    "spec": {
        "model": {"name": "llama-3.1-70b", "source": "hf:meta-llama/Llama-3.1-70B-Instruct"},
        "slo": {"ttftMs": {"p95": 500}, "tpotMs": {"p95": 50}},
        "explicit": {
            "choices": [
                {"accelerator": "h100-sxm-80gb", "engine": "vllm", "tensorParallel": 4},
                {"accelerator": "l40s", "engine": "vllm", "tensorParallel": 8, "quantization": "fp8"},
            ]
        },
        "replicas": 2,
    },
}


class MetadataIn(Part):
    """The part of metadata a client may set."""

    name: str = Field(min_length=1, max_length=253, description="Name, unique in its namespace.")
    labels: _Labels = Field(default_factory=dict, description="Labels.")
    annotations: _Labels = Field(default_factory=dict, description="Annotations.")
    resource_version: str | None = Field(
        default=None,
        max_length=64,
        description="Version the change was made on. Required to update; see also If-Match.",
    )


class MetadataOut(StatusPart):
    """Metadata as stored; server-side bookkeeping (managedFields) is left out."""

    name: str
    namespace: str | None = None
    uid: str
    resource_version: str
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)


class PoolIn(Part):
    """A `GPUPool` to create or replace."""

    metadata: MetadataIn
    spec: GPUPoolSpec


class PoolOut(StatusPart):
    """A `GPUPool`."""

    metadata: MetadataOut
    spec: GPUPoolSpec
    status: GPUPoolStatus = Field(default_factory=GPUPoolStatus)


class PoolList(StatusPart):
    """Pools; `resourceVersion` is the version of the cluster's state the list shows."""

    resource_version: str
    items: list[PoolOut]


class DeploymentIn(Part):
    """A `ServingDeployment` to create or replace."""

    metadata: MetadataIn
    spec: ServingDeploymentSpec


class DeploymentOut(StatusPart):
    """A `ServingDeployment`."""

    metadata: MetadataOut
    spec: ServingDeploymentSpec
    status: ServingDeploymentStatus = Field(default_factory=ServingDeploymentStatus)


class DeploymentList(StatusPart):
    """Serving deployments of the namespaces the caller may list."""

    resource_version: str
    items: list[DeploymentOut]


class ScaleIn(Part):
    """A new number of replicas."""

    replicas: int = Field(ge=0, le=1000, description="Engine replicas.")


class PoolSupply(StatusPart):
    """What one pool could still give, as its controller last saw it."""

    pool: str
    accelerator: str | None = None
    free_accelerators: int
    largest_free_block: int
    quarantined_nodes: int
    ready: bool
    reason: str = ""


class PlacementExplanation(StatusPart):
    """Why the replicas are where they are, and why others wait."""

    reason: str = Field(description="The dominant reason.")
    message: str = Field(description="The same in words, with the numbers and the way out.")
    replicas: int
    ready_replicas: int
    choices: list[ChoiceVerdict] = Field(description="Why each accelerator choice was used or not.")
    pools: list[PoolReplicas] = Field(description="Where the replicas are.")
    supply: list[PoolSupply] = Field(
        description="Pools of the accelerators asked for; empty without the right to read pools."
    )


class ProblemOut(StatusPart):
    """RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str
    field: str | None = None
    hint: str | None = None


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses: what any request may be answered with beside success, and `statuses`. 502, 503 and 504 say that
    the cluster, the database or a planner does not answer."""
    every = (400, 401, 403, 404, 409, 413, 422, 429, 502, 503, 504)
    return {
        status: {"model": ProblemOut, "content": {"application/problem+json": {}}}
        for status in sorted({*every, *statuses})
    }
