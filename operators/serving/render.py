"""From a deployment, one accelerator choice and a placement to the pods of a replica. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.catalog import Accelerator, Catalog, Engine
from controlplane.model import labels
from controlplane.model.cluster import PoolToleration
from controlplane.model.errors import InvalidSpec
from controlplane.model.routers import InstalledRouter, RouterName
from controlplane.model.serving import (
    AcceleratorChoice,
    Endpoint,
    NicRequirement,
    ReplicaRole,
    ServingDeployment,
    TopologyRequirement,
)
from operators.serving import source as sources
from operators.serving.demand import cpu_millicores
from operators.serving.launch import WORKERS_ANSWER_HEALTH, EngineLaunch, Gang, command, plan_launch, served_model
from operators.serving.names import gang_service_name, pod_name
from operators.serving.overlay import merge_pod
from operators.serving.podspec import skeleton
from operators.serving.probes import leader_hook, probes, worker_hook
from operators.serving.revision import asked_of, revision_of
from operators.serving.roles import role_annotations
from operators.serving.routers import host_name
from operators.serving.services import (
    SERVICE_PORT,
    headless_service,
    owner_reference,
    pod_disruption_budget,
    service,
)
from operators.serving.shape import resolve

__all__ = [
    "RenderSettings",
    "ReplicaTemplate",
    "choice_image",
    "endpoint",
    "grace_s",
    "headless_service",
    "pod",
    "pod_disruption_budget",
    "pod_name",
    "replica_template",
    "service",
    "toleration",
]


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """What the installation decides.

    `engine_images` maps an engine id, or `ENGINE/VENDOR` for one vendor's accelerators, to an image; it wins over the
    catalogue's. `routers`: what may stand in front of replicas besides a Service. `pre_stop_s`: time between the pod's leaving the Service and the engine's SIGTERM. `margin_s`: time
    for the engine to end after its last request.
    """

    engine_images: Mapping[str, str] = field(default_factory=dict)
    routers: Mapping[RouterName, InstalledRouter] = field(default_factory=dict)
    cluster_domain: str = "cluster.local"
    pre_stop_s: int = 5
    margin_s: int = 15


@dataclass(frozen=True, slots=True)
class ReplicaTemplate:
    """One choice, ready to be placed. `choice_index`: its position among those of its role. `revision` names what its
    pods are rendered from, placement apart; `asked` what the spec says of them, whoever renders it."""

    choice_index: int
    revision: str
    asked: str
    pods: int
    units_per_pod: int
    resource: str
    accelerator: str
    engine: str
    image: str
    pools: tuple[str, ...]
    nic: NicRequirement | None
    topology: TopologyRequirement | None
    repair_in_place: bool
    tolerations: tuple[dict[str, Any], ...] = field(compare=False)
    launch: EngineLaunch = field(repr=False, compare=False)
    base: dict[str, Any] = field(repr=False, compare=False)
    settings: RenderSettings = field(repr=False)
    engine_facts: Engine = field(repr=False, compare=False)

    @property
    def role(self) -> ReplicaRole:
        """What its replicas do."""
        return self.launch.role


def choice_image(
    choice: AcceleratorChoice, engine: Engine, accelerator: Accelerator, settings: RenderSettings
) -> str | None:
    """Image of a choice: its own, the installation's for engine and vendor, the installation's for the engine, the
    catalogue's. The last two are CUDA or CPU images, so another vendor's accelerator needs one of the first two: None
    when there is none."""
    if choice.image is not None:
        return choice.image
    by_vendor = settings.engine_images.get(f"{engine.id}/{accelerator.vendor}")
    if by_vendor is not None or accelerator.vendor not in ("nvidia", "generic"):
        return by_vendor
    return settings.engine_images.get(engine.id, engine.image)


def replica_template(
    deployment: ServingDeployment, choice_index: int, catalog: Catalog, settings: RenderSettings
) -> ReplicaTemplate:
    """What the pods of one of `spec.choices` are. Expects a deployment that passed `validate`.

    Raises UnknownName or InvalidSpec where a name or source is wrong or no image is known.
    """
    path = deployment.spec.choice_field(choice_index)
    choice = deployment.spec.choices[choice_index]
    role, at = deployment.spec.role_of(choice_index)
    accelerator = catalog.accelerator(choice.accelerator, field=f"{path}.accelerator")
    engine = catalog.engine(choice.engine, field=f"{path}.engine")
    model = catalog.model(deployment.spec.model.name, field="spec.model.name")
    image = choice_image(choice, engine, accelerator, settings)
    if image is None:
        raise no_image(engine, accelerator, path)
    shape = resolve(choice, accelerator)
    source = sources.parse(deployment.spec.model.source)
    launch = plan_launch(engine, shape, choice, source, _served_name(deployment), role)
    base = merge_pod(skeleton(deployment, launch, accelerator, model, image), deployment.spec.pod_template)
    return ReplicaTemplate(
        choice_index=at,
        revision=revision_of(deployment, choice, launch, image),
        asked=asked_of(deployment, choice, launch),
        pods=shape.pods,
        # Placement counts what the pod asks for, and a podTemplate may add containers that ask for CPU, too.
        units_per_pod=cpu_millicores(base["spec"]) if accelerator.kind == "cpu" else shape.units_per_pod,
        resource=accelerator.resource_name,
        accelerator=accelerator.id,
        engine=engine.id,
        image=image,
        pools=tuple(choice.pools),
        nic=choice.nic,
        topology=choice.topology,
        repair_in_place=shape.pods == 1 or engine.capabilities.repair_one_pod_in_place is True,
        tolerations=tuple(base["spec"].get("tolerations", ())),
        launch=launch,
        base=base,
        settings=settings,
        engine_facts=engine,
    )


def no_image(engine: Engine, accelerator: Accelerator, path: str) -> InvalidSpec:
    """The error for a choice without an image."""
    return InvalidSpec(
        f"no image of {engine.id} for {accelerator.vendor} accelerators is configured",
        field=f"{path}.image",
        hint=f"name one here, or set the installation's image for {engine.id}/{accelerator.vendor}",
    )


def pod(
    template: ReplicaTemplate,
    deployment: ServingDeployment,
    slot: int,
    rank: int,
    node: str,
    pool: str,
    tolerations: Sequence[PoolToleration] = (),
) -> dict[str, Any]:
    """Manifest of one pod of a replica, bound to `node` by required affinity; kube-scheduler still decides whether it
    fits. Drain time and startup deadline are the deployment's current ones: they are not part of the revision."""
    name = pod_name(deployment.metadata.name, template.revision, slot, rank)
    manifest = {"apiVersion": "v1", "kind": "Pod", **_copy_of(template.base)}
    metadata, spec = manifest["metadata"], manifest["spec"]
    metadata["name"] = name
    metadata["namespace"] = deployment.metadata.namespace
    metadata["ownerReferences"] = [owner_reference(deployment)]
    metadata["labels"].update(_labels(template, deployment, slot, rank, pool))
    if template.role != "Aggregated":
        metadata["labels"][labels.ROLE] = template.role
    metadata["annotations"].update(role_annotations(template.engine_facts, template.role))
    metadata["annotations"].update(
        {labels.UNITS: str(template.units_per_pod), labels.CHOICE: str(template.choice_index)}
    )
    spec["restartPolicy"] = "Always" if template.pods == 1 else "Never"  # a gang starts together or not at all
    spec["terminationGracePeriodSeconds"] = grace_s(deployment, template.settings)
    spec["affinity"] = _only_on(node)
    wanted = [*(toleration(item) for item in tolerations), *template.tolerations]
    if wanted:
        spec["tolerations"] = [item for index, item in enumerate(wanted) if item not in wanted[:index]]
    gang = _gang(template, deployment, slot)
    if gang is not None:
        spec["hostname"] = name
        spec["subdomain"] = gang_service_name(deployment.metadata.name)
    _engine_container(spec, template, deployment, rank, gang)
    return manifest


def grace_s(deployment: ServingDeployment, settings: RenderSettings) -> int:
    """Seconds between deletion and SIGKILL by the current drain time; pass it with each delete, since a running pod
    carries the value of its creation."""
    return settings.pre_stop_s + deployment.spec.rollout.drain_seconds + settings.margin_s


def endpoint(
    deployment: ServingDeployment, settings: RenderSettings, template: ReplicaTemplate | None = None
) -> Endpoint:
    """Where clients reach the deployment, and the model name they send. With `template`, the name under which its
    engine answers (an engine without a flag for it derives its own)."""
    name, namespace = deployment.metadata.name, deployment.metadata.namespace
    served = _served_name(deployment)
    if template is not None:
        served = served_model(template.engine_facts, served, template.launch.source)
    url = f"http://{name}.{namespace}.svc.{settings.cluster_domain}:{SERVICE_PORT}"
    gateway = settings.routers.get(deployment.spec.routing.router)
    if gateway is not None and gateway.gateway is not None:
        url = f"http://{host_name(deployment, gateway)}"
    return Endpoint(url=url, served_model=served)


def _served_name(deployment: ServingDeployment) -> str:
    return deployment.spec.model.served_name or deployment.spec.model.name


def _engine_container(
    spec: dict[str, Any], template: ReplicaTemplate, deployment: ServingDeployment, rank: int, gang: Gang | None
) -> None:
    engine = template.engine_facts
    container = next(item for item in spec["containers"] if item["name"] == "engine")
    exported = [variable["name"] for variable in container["env"]]
    program, arguments = command(template.launch, rank, gang, deployment.spec.rollout.drain_seconds, exported)
    container["command"], container["args"] = program, arguments
    if rank == 0 or engine.id in WORKERS_ANSWER_HEALTH:
        container.update(probes(engine, deployment.spec.startup_deadline_seconds))
    if rank == 0:
        container["lifecycle"] = leader_hook(engine, template.settings.pre_stop_s)
    elif gang is not None:
        container["lifecycle"] = worker_hook(engine, gang.leader)


def _gang(template: ReplicaTemplate, deployment: ServingDeployment, slot: int) -> Gang | None:
    if template.pods == 1:
        return None
    name = deployment.metadata.name
    domain = f"{gang_service_name(name)}.{deployment.metadata.namespace}.svc.{template.settings.cluster_domain}"
    return Gang(tuple(f"{pod_name(name, template.revision, slot, rank)}.{domain}" for rank in range(template.pods)))


def _labels(
    template: ReplicaTemplate, deployment: ServingDeployment, slot: int, rank: int, pool: str
) -> dict[str, str]:
    return {
        labels.DEPLOYMENT: deployment.metadata.name,
        labels.REVISION: template.revision,
        labels.REPLICA: str(slot),
        labels.RANK: str(rank),
        labels.LEADER: "true" if rank == 0 else "false",
        labels.POOL: pool,
        labels.ACCELERATOR: template.accelerator,
        labels.ENGINE: template.engine,
        labels.MANAGED_BY: labels.MANAGED_BY_VALUE,
    }


def _copy_of(tree: Any) -> Any:
    """Of what JSON can say; `copy.deepcopy` takes nearly three times as long, and every pod begins with it."""
    if isinstance(tree, dict):
        return {key: _copy_of(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_copy_of(value) for value in tree]
    return tree


def _only_on(node: str) -> dict[str, Any]:
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


def toleration(item: PoolToleration) -> dict[str, Any]:
    """As a pod states it."""
    out: dict[str, Any] = {"key": item.key, "operator": "Exists" if item.value is None else "Equal"}
    if item.value is not None:
        out["value"] = item.value
    if item.effect is not None:
        out["effect"] = item.effect
    return out
