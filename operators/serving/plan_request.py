"""What the planner is asked for one deployment: its spec and the pools, as a `PlanRequest`. Pure."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

from controlplane.catalog import Accelerator, Catalog, Engine
from controlplane.model.blocks import take
from controlplane.model.choice import AcceleratorChoice, EngineName
from controlplane.model.errors import InvalidSpec, TrimtabError, Unsupported
from controlplane.model.plans import PlannablePool, PlanRequest
from controlplane.model.serving import ServingDeployment, ServingDeploymentSpec
from operators.pools.plannable import MILLICORES_PER_CORE, Pods, PoolRoom, pools_revision, room_revision
from operators.serving import source as sources
from operators.serving.render import RenderSettings, choice_image, no_image
from operators.serving.validate_choice import check_api_key, check_engine
from operators.workloads.podview import PodView

# More than are kept: some may turn out not to be deployable here.
_TOP = 8
_POOLS_MAX = 64
_REVISION_DIGITS = 10

Claims = Mapping[str, Sequence[Pods]]  # by pool


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with the hashes that say whether a plan still answers it. `calibration`: digest of what it will be
    answered with; None: unknown."""

    request: PlanRequest
    request_revision: str
    pools_revision: str
    room_revision: str
    calibration: str | None = None


def ask(
    deployment: ServingDeployment,
    rooms: Sequence[PoolRoom],
    pods: Iterable[PodView],
    catalog: Catalog,
    settings: RenderSettings,
    claims: Claims = MappingProxyType({}),
) -> Asked:
    """The planning question of a valid `auto` deployment. `claims`: what others' plans will take, pool by pool. Raises
    InvalidSpec or Unsupported where there is none."""
    spec = deployment.spec
    if spec.auto is None or spec.workload is None:
        raise InvalidSpec("a plan needs the traffic it is made for", field="spec.workload", hint="state it")
    own = [pod for pod in pods if pod.owner_uid == deployment.metadata.uid]
    held = held_pods(own)
    usable = [*rooms, *_differing(rooms, own, catalog)]
    serving = {pod.pool for pod in own if _serves(pod)}
    pools = [
        room.with_held(held.get(room.facts.name, ()), claims.get(room.facts.name, ()))
        for room in usable
        if not room.closed or room.facts.name in serving
    ][:_POOLS_MAX]
    if not pools:
        raise Unsupported(
            "no GPUPool has usable nodes",
            field="spec.auto",
            hint="create a GPUPool, or see `kubectl get gpupools` for what keeps them from being used",
        )
    allowed = spec.auto.allowed
    engines = able_engines(deployment, {pool.accelerator for pool in pools}, catalog, settings)
    request = PlanRequest(
        model=spec.model.name,
        slo=spec.slo,
        workload=spec.workload,
        pools=pools,
        allowed=allowed.model_copy(update={"engines": engines}),
        objective=spec.auto.objective,
        routing=spec.routing,
        top=_TOP,
    )
    return Asked(request, request_revision(spec), pools_revision(pools, engines), room_revision(pools))


def request_revision(spec: ServingDeploymentSpec) -> str:
    """Hash of the parts of the spec that a plan depends on. Nothing of the cluster: scores of one revision compare,
    whatever pools and engines come and go."""
    parts = {
        "model": spec.model.name,
        "slo": spec.slo.model_dump(mode="json"),
        "workload": None if spec.workload is None else spec.workload.model_dump(mode="json"),
        "auto": None if spec.auto is None else spec.auto.model_dump(mode="json"),
        # A plain Service counts as nothing said, so that plans made before there was a choice stay valid.
        **({} if spec.routing.router == "service" else {"routing": spec.routing.model_dump(mode="json")}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_REVISION_DIGITS]


def held_pods(own: Iterable[PodView]) -> dict[str, list[Pods]]:
    """What the deployment's own pods hold in each pool, with their nodes: its next plan may use that room, too."""
    held: dict[str, list[Pods]] = {}
    for pod in own:
        if pod.pool is not None and not pod.terminal:
            held.setdefault(pod.pool, []).append(Pods(pod.units or 0, 1, pod.node_name or pod.target_node))
    return held


def _serves(pod: PodView) -> bool:
    return pod.ready and not pod.terminal and not pod.deleting


def _differing(rooms: Sequence[PoolRoom], own: Iterable[PodView], catalog: Catalog) -> list[PoolRoom]:
    """Closed rooms of pools that name no accelerator now (nodes that differ, or that lost their labels) and still hold
    pods that answer: they are what these pods were made for."""
    known = {room.facts.name for room in rooms}
    found: dict[str, PoolRoom] = {}
    for pod in own:
        accelerator = catalog.accelerators.get(pod.accelerator or "")
        if pod.pool is None or pod.pool in known or accelerator is None or not _serves(pod):
            continue
        facts = PlannablePool(name=pod.pool, accelerator=accelerator.id, free=0)
        scale = MILLICORES_PER_CORE if accelerator.kind == "cpu" else 1
        found[pod.pool] = PoolRoom(facts, 0, scale, closed=True)
    return [found[name] for name in sorted(found)]


def able_engines(
    deployment: ServingDeployment, accelerators: Iterable[str], catalog: Catalog, settings: RenderSettings
) -> list[EngineName]:
    """Of the allowed engines, those that can serve this deployment on one of the accelerators with an image known
    here. Raises the first engine's error when there is none."""
    spec = deployment.spec
    wanted: list[EngineName] = list(spec.auto.allowed.engines if spec.auto is not None else ())
    wanted = wanted or sorted(get_args(EngineName))
    known = [catalog.accelerators[name] for name in sorted(accelerators) if name in catalog.accelerators]
    able: list[EngineName] = []
    first: TrimtabError | None = None
    for name in wanted:
        engine = catalog.engine(name, field="spec.auto.allowed.engines")
        errors = [_why_not(deployment, accelerator, engine, catalog, settings) for accelerator in known]
        if None in errors:
            able.append(name)
        elif errors and first is None:
            first = errors[0]
    if able:
        return able
    if first is not None:
        raise first
    raise Unsupported("no engine is allowed or installed", field="spec.auto.allowed.engines", hint="allow one")


def _why_not(
    deployment: ServingDeployment,
    accelerator: Accelerator,
    engine: Engine,
    catalog: Catalog,
    settings: RenderSettings,
) -> TrimtabError | None:
    choice = AcceleratorChoice(accelerator=accelerator.id, engine=engine.id)
    field = f"spec.auto ({engine.id} on {accelerator.id})"
    source = sources.parse(deployment.spec.model.source)
    errors = check_engine(deployment, choice, accelerator, engine, source, field)
    errors += check_api_key(deployment, engine, catalog)
    if not errors and choice_image(choice, engine, accelerator, settings) is None:
        errors.append(no_image(engine, accelerator, field))
    return errors[0] if errors else None


_SPEC_FIELDS = {
    "model": "spec.model.name",
    "slo": "spec.slo",
    "workload": "spec.workload",
    "routing": "spec.routing",
    "allowed": "spec.auto.allowed",
}


def in_words_of_the_spec(error: TrimtabError) -> TrimtabError:
    """The planner names fields of its request; the user wrote a spec."""
    head, dot, rest = (error.field or "").partition(".")
    field = _SPEC_FIELDS[head] + dot + rest if head in _SPEC_FIELDS else error.field
    return type(error)(
        error.message, field=field, value=error.value, limit=error.limit, hint=error.hint, code=error.reason
    )


def fits(pods_by_pool: Claims, pools: Sequence[PlannablePool], scale: Mapping[str, int]) -> bool:
    """Whether there is room for these pods, on single nodes where a pool tells of them. `scale`: units of an accelerator
    (or core), by pool."""
    known = {pool.name: pool for pool in pools}
    return all(name in known and _fits(pods, known[name], scale[name]) for name, pods in pods_by_pool.items())


def _fits(wanted: Sequence[Pods], pool: PlannablePool, scale: int) -> bool:
    if sum(pods.units * pods.count for pods in wanted) > pool.free * scale:
        return False
    if pool.free_nodes is None:
        return True
    free = Counter({item.free * scale: item.nodes for item in pool.free_nodes})
    largest_first = sorted(wanted, key=lambda pods: -pods.units)
    return not any(take(free, pods.units, pods.count) for pods in largest_first)
