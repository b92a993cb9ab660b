"""A choice: one accelerator with the engine shape that suits it, and the promise it must keep.

What hand-written and planned deployments share; `serving` and `plans` both build on it.
"""

from typing import Literal

from pydantic import Field

from controlplane.model.cluster import TopologyLevel
from controlplane.model.resource import DnsLabel, Part

EngineName = Literal["openvino", "vllm", "sglang", "trtllm-serve"]
KnobValue = bool | int | float | str


class LatencyTarget(Part):
    """Upper limits of one latency metric at percentiles, in milliseconds."""

    p50: float | None = Field(default=None, gt=0, le=3_600_000, description="Median, ms.")
    p90: float | None = Field(default=None, gt=0, le=3_600_000, description="90th percentile, ms.")
    p95: float | None = Field(default=None, gt=0, le=3_600_000, description="95th percentile, ms.")
    p99: float | None = Field(default=None, gt=0, le=3_600_000, description="99th percentile, ms.")


class Slo(Part):
    """What the users of the endpoint are promised."""

    ttft_ms: LatencyTarget | None = Field(default=None, description="Time to first token.")
    tpot_ms: LatencyTarget | None = Field(default=None, description="Time per output token after the first.")


class NicRequirement(Part):
    """What the pods of one replica need from the network."""

    nic_class: str | None = Field(
        default=None, alias="class", max_length=63, description="NIC class from the catalogue."
    )
    min_per_node: int | None = Field(
        default=None, ge=1, le=64, description="NICs of that class (rails) each node must have."
    )


class TopologyRequirement(Part):
    """All pods of one replica inside one domain."""

    level: TopologyLevel = Field(description="Topology level of the domain.")
    mode: Literal["required", "preferred"] = Field(
        default="required",
        description="required: do not place otherwise. preferred: place elsewhere when no domain fits.",
    )


class AcceleratorChoice(Part):
    """One accelerator with the engine shape that suits it."""

    accelerator: str = Field(
        min_length=1, max_length=63, description="Accelerator from the catalogue, for example h100-sxm-80gb."
    )
    pools: list[DnsLabel] = Field(
        default_factory=list,
        max_length=32,
        description="Only these GPUPools, in this order. Every pool of the accelerator when empty.",
    )
    engine: EngineName = Field(description="Engine that serves the model on this accelerator.")
    tensor_parallel: int = Field(default=1, ge=1, le=512, description="Ranks that split each layer.")
    pipeline_parallel: int = Field(default=1, ge=1, le=64, description="Stages that split the layers.")
    data_parallel: int = Field(
        default=1, ge=1, le=512, description="Engine-internal replicas of attention (data parallel ranks)."
    )
    expert_parallel: int = Field(
        default=1, ge=1, le=512, description="Ranks the experts of a MoE model are spread over."
    )
    quantization: str | None = Field(
        default=None,
        max_length=63,
        description="Weight format in the engine's words. The checkpoint's own when absent.",
    )
    knobs: dict[str, KnobValue] = Field(
        default_factory=dict,
        max_length=64,
        description="Engine settings by field name, for example maxNumSeqs: 256. Values are true or false, numbers or text. "
        "Unknown names are refused with the nearest known.",
    )
    cpu_millicores: int | None = Field(
        default=None,
        ge=100,
        le=1_024_000,
        description="Millicores for each rank when the accelerator is a CPU. 1000 when absent; not allowed for GPUs.",
    )
    accelerators_per_pod: int | None = Field(
        default=None,
        ge=1,
        le=128,
        description="Accelerators each pod takes. As many as the replica needs, up to those of one node, when absent.",
    )
    nic: NicRequirement | None = Field(default=None, description="Network needs of the pods.")
    topology: TopologyRequirement | None = Field(
        default=None, description="Domain all pods of a replica share. Matters when a replica spans nodes."
    )
    image: str | None = Field(
        default=None,
        max_length=512,
        description="Engine image, REGISTRY/NAME:TAG or @DIGEST. The installation's default for the engine when absent.",
    )
