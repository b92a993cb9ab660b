"""Serving: the `ServingDeployment` resource, its plan and its status."""

from datetime import datetime
from typing import Literal

from pydantic import Field, JsonValue

from controlplane.model.auto import Auto, PlanStatus, Traffic
from controlplane.model.canary import CanaryStatus, StableRevision
from controlplane.model.choice import (
    AcceleratorChoice,
    EngineName,
    KnobValue,
    LatencyTarget,
    NicRequirement,
    Slo,
    TopologyRequirement,
)
from controlplane.model.resource import Condition, DnsLabel, ObjectMeta, Part, StatusPart
from controlplane.model.roles import ReplicaRole, RoleReplicas, Roles, RoleStatus
from controlplane.model.rollout import Rollout
from controlplane.model.routing import Routing

__all__ = [
    "POD_TEMPLATE_PARTS",
    "AcceleratorChoice",
    "ChoiceVerdict",
    "Endpoint",
    "EngineName",
    "Explicit",
    "KnobValue",
    "LatencyTarget",
    "Model",
    "ModelCache",
    "NicRequirement",
    "PoolReplicas",
    "ReplicaRole",
    "RoleReplicas",
    "RoleStatus",
    "Roles",
    "Rollout",
    "Routing",
    "SecretKey",
    "ServingDeployment",
    "ServingDeploymentSpec",
    "ServingDeploymentStatus",
    "Slo",
    "TopologyRequirement",
]

# The parts of spec.podTemplate as its schema tells them; what may stand inside is the renderer's to judge.
POD_TEMPLATE_PARTS: dict[str, JsonValue] = {
    "metadata": {"type": "object", "description": "Labels and annotations to add."},
    "spec": {"type": "object", "description": "Pod spec fields; the engine's container is named engine."},
}


class ModelCache(Part):
    """Where downloaded or unpacked weights are kept between pod starts."""

    claim: DnsLabel | None = Field(
        default=None,
        description="PersistentVolumeClaim in the same namespace (ReadWriteMany when replicas run on several nodes). "
        "Without it weights live in an emptyDir and are fetched again by each pod.",
    )
    size_limit: str = Field(
        default="100Gi",
        max_length=16,
        pattern=r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti)?$",
        description="Size limit of the emptyDir used when no claim is named.",
    )


class Model(Part):
    """Which model is served and where its weights come from."""

    name: str = Field(
        min_length=1,
        max_length=63,
        description="Model from the catalogue, for example llama-3.1-70b. Its shapes decide which parallel degrees divide.",
    )
    source: str = Field(
        min_length=4,
        max_length=512,
        description="Where the weights are. pvc:CLAIM/PATH (a claim in this namespace), image:/PATH (baked into the engine "
        "image), or hf:ORG/REPO[@REVISION] (downloaded by the engine). Host paths and URLs are not accepted.",
    )
    served_name: str | None = Field(
        default=None,
        max_length=253,
        description="Model name in the OpenAI API. The catalogue name when absent.",
    )
    cache: ModelCache = Field(default_factory=ModelCache, description="Weight cache.")


class Explicit(Part):
    """A plan written by hand: accelerator choices in order of preference."""

    choices: list[AcceleratorChoice] = Field(
        min_length=1,
        max_length=16,
        description="Tried in order for each replica; the first that can be placed is used, and the status says why others were not.",
    )


class SecretKey(Part):
    """One key of a Secret in the same namespace."""

    name: str = Field(min_length=1, max_length=253, description="Secret.")
    key: str = Field(default="apiKey", min_length=1, max_length=253, description="Key in the Secret.")


class ServingDeploymentSpec(Part):
    """An LLM endpoint: model, promise, accelerator choices (written or planned), scale and rollout."""

    model: Model = Field(description="What is served.")
    slo: Slo = Field(default_factory=Slo, description="Latency promise at percentiles.")
    explicit: Explicit | None = Field(
        default=None,
        description="Accelerator choices in order, each with its own engine shape. Exactly one of explicit, roles and "
        "auto.",
    )
    roles: Roles | None = Field(
        default=None,
        description="Prefill and decode replicas apart (vllm, sglang), each with its own choices. They need a router "
        "that knows both: see routing. Exactly one of explicit, roles and auto.",
    )
    auto: Auto | None = Field(
        default=None,
        description="Let Trimtab choose accelerators, engine shapes and replicas for the SLO and the workload. Exactly one "
        "of explicit, roles and auto.",
    )
    workload: Traffic | None = Field(default=None, description="Traffic to plan for. Needed with auto.")
    routing: Routing = Field(default_factory=Routing, description="What stands between clients and replicas.")
    replicas: int = Field(
        default=1,
        ge=0,
        le=1000,
        description="Engine replicas. With auto the fewest: the plan may ask for more, and 0 still means none. With roles "
        "the number of sets of prefill and decode replicas.",
    )
    spread: Literal["Pack", "Spread"] = Field(
        default="Spread",
        description="Spread: replicas on different nodes where possible. Pack: fill nodes, keep large blocks free.",
    )
    rollout: Rollout = Field(default_factory=Rollout, description="How revisions replace each other.")
    priority: Literal["Low", "Normal", "High"] = Field(
        default="Normal",
        description="Who is placed first when several deployments wait, and who is power-capped last.",
    )
    priority_class_name: DnsLabel | None = Field(default=None, description="PriorityClass of the pods.")
    suspend: bool = Field(default=False, description="Drain and remove all replicas; keep the object and its Service.")
    startup_deadline_seconds: int = Field(
        default=1800,
        ge=10,
        le=86_400,
        description="Longest time from pod start to a ready engine (GPU engines load for 10 to 30 minutes); then the replica is replaced.",
    )
    api_key_secret: SecretKey | None = Field(default=None, description="Bearer key the engine asks of its clients.")
    pod_template: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Strategic merge patch on the rendered pod: pull and model secrets, env, volumes such as /dev/shm, RDMA "
        "resources, tolerations, security. What the controller owns (node affinity, command, probes, ports) cannot be changed.",
        json_schema_extra={"properties": POD_TEMPLATE_PARTS},
    )

    @property
    def choices(self) -> list[AcceleratorChoice]:
        """Accelerator choices in order: those written, or those planned once a plan is in force. With roles: those of
        the prefill replicas, then those of the decode replicas."""
        if self.roles is not None:
            return [*self.roles.prefill.choices, *self.roles.decode.choices]
        return [] if self.explicit is None else self.explicit.choices

    def choice_field(self, index: int) -> str:
        """How messages call a choice: where it is written, or that it was planned."""
        role, at = self.role_of(index)
        if role != "Aggregated":
            return f"spec.roles.{role.lower()}.choices[{at}]"
        return f"spec.explicit.choices[{index}]" if self.auto is None else f"plan.choices[{index}]"

    def role_of(self, index: int) -> tuple[ReplicaRole, int]:
        """The role whose choice this is, and its position among the choices of that role."""
        if self.roles is None:
            return "Aggregated", index
        first = len(self.roles.prefill.choices)
        return ("Prefill", index) if index < first else ("Decode", index - first)

    @property
    def engines_wanted(self) -> int:
        """Engine replicas of all roles together."""
        if self.roles is None:
            return self.replicas
        return self.replicas * (self.roles.prefill.replicas + self.roles.decode.replicas)

    def of_role(self, role: ReplicaRole) -> "ServingDeploymentSpec":
        """The spec of one role's replicas, as if they were all there is; itself when roles are not separate."""
        if self.roles is None or role == "Aggregated":
            return self
        part = self.roles.prefill if role == "Prefill" else self.roles.decode
        return self.model_copy(
            update={
                "explicit": Explicit.model_construct(choices=part.choices),
                "roles": None,
                "replicas": self.replicas * part.replicas,
            }
        )


class ChoiceVerdict(StatusPart):
    """Why one accelerator choice was used or not."""

    role: ReplicaRole | None = Field(default=None, description="With roles: whose choice it is.")
    index: int = Field(
        description="Position in spec.explicit.choices, in the role's choices, or in the plan's choices with auto."
    )
    accelerator: str = Field(description="Accelerator of the choice.")
    pool: str | None = Field(default=None, description="Pool the verdict is about.")
    replicas: int = Field(default=0, description="Replicas running on this choice.")
    reason: str = Field(description="Chosen, or the first constraint that failed.")
    message: str = Field(default="", max_length=1024, description="Numbers and what would fix it.")
    needed: int | None = Field(default=None, description="Accelerators one replica needs.")
    free: int | None = Field(
        default=None, description="Accelerators free in the pool under all constraints before this one."
    )
    largest_block: int | None = Field(default=None, description="Most accelerators free in one domain or node.")


class PoolReplicas(StatusPart):
    """Replicas of this deployment in one pool."""

    pool: str = Field(description="GPUPool.")
    accelerator: str = Field(description="Accelerator.")
    replicas: int = Field(description="Replicas placed.")
    ready: int = Field(description="Of these, ready.")


class Endpoint(StatusPart):
    """Where clients reach the deployment."""

    url: str = Field(description="Base URL inside the cluster; /v1 follows.")
    served_model: str = Field(description="Value for the request's model field.")


class ServingDeploymentStatus(StatusPart):
    """What runs now and why."""

    observed_generation: int = Field(default=0, description="The metadata.generation this status was computed from.")
    replicas: int = Field(
        default=0,
        description="Replicas that exist. With roles, here and below: whole sets of prefill and decode replicas.",
    )
    ready_replicas: int = Field(default=0, description="Replicas whose engine answers.")
    updated_replicas: int = Field(default=0, description="Replicas of the current revision.")
    selector: str = Field(default="", description="Label selector of the pods, for kubectl scale and autoscalers.")
    revision: str | None = Field(default=None, description="Short hash of what the pods are rendered from.")
    accelerator: str | None = Field(default=None, description="Accelerator most replicas run on.")
    reason: str = Field(default="", description="The dominant reason, same as on the Ready condition.")
    choices: list[ChoiceVerdict] = Field(
        default_factory=list, max_length=64, description="Why each choice was used or not."
    )
    plan: PlanStatus | None = Field(default=None, description="With auto: what was planned and why.")
    roles: list[RoleStatus] = Field(default_factory=list, max_length=2, description="With roles: replicas of each.")
    pools: list[PoolReplicas] = Field(default_factory=list, max_length=64, description="Replicas by pool.")
    endpoints: list[Endpoint] = Field(
        default_factory=list, max_length=8, description="Where clients reach the deployment."
    )
    canary: CanaryStatus | None = Field(default=None, description="With spec.rollout.canary: how the change does.")
    stable: StableRevision | None = Field(default=None, description="What a rollback would go back to.")
    conditions: list[Condition] = Field(default_factory=list, max_length=16, description="Standard conditions.")
    last_rollout_time: datetime | None = Field(
        default=None, description="When the current revision became the only one."
    )


class ServingDeployment(StatusPart):
    """A `ServingDeployment` as read from the API server."""

    metadata: ObjectMeta
    spec: ServingDeploymentSpec
    status: ServingDeploymentStatus = Field(default_factory=ServingDeploymentStatus)
