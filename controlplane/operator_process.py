"""The composition root of `trimtab operator`: client, caches, inventory, controllers, leader election."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvloop

from controlplane import catalog
from controlplane.calibration import CalibrationWatch
from controlplane.kube import (
    NODES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    RESOURCE_SLICES,
    SERVICES,
    KubeClient,
    KubeError,
    NotFound,
    Resource,
    load_access,
)
from controlplane.live_metrics import EnginePages
from controlplane.logs import configure
from controlplane.model import labels
from controlplane.model.live import LiveMetrics
from controlplane.model.ports import PlanningService
from controlplane.model.resource import GROUP, VERSION
from controlplane.operator_routing import routing
from controlplane.operator_tuning import CachedPlaces, add_tuning, deployment_in, desk_of
from controlplane.planner_metrics import CountedPlanning, watch_line
from controlplane.planning import PlannerProcess, planner_options
from controlplane.settings import OperatorSettings
from operators.pools.controller import NODE_PROJECTION, POOL_PROJECTION, SLICE_PROJECTION, PoolController, feed
from operators.pools.inventory import Inventory
from operators.pools.plannable import plannable
from operators.runtime import (
    EventRecorder,
    Fence,
    Informer,
    KubeLeaseStore,
    LeaderElector,
    LeaderTimes,
    Manager,
    Projection,
    RuntimeMetrics,
    Writer,
)
from operators.serving.controller import ServingController
from operators.serving.owned import BudgetWire, ServiceWire, budget_row, service_row
from operators.serving.podnews import POD_INDEXES
from operators.serving.render import RenderSettings
from operators.serving.rows import DeploymentWire, project_deployment
from operators.serving.snapshot import PlanSettings
from operators.tuning.controller import TuningController
from operators.workloads.podview import project as project_pod
from operators.workloads.podwire import PodWire

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0

GPU_POOLS = Resource(GROUP, VERSION, "gpupools", "GPUPool", namespaced=False)
SERVING_DEPLOYMENTS = Resource(GROUP, VERSION, "servingdeployments", "ServingDeployment")
_OURS = f"{labels.MANAGED_BY}={labels.MANAGED_BY_VALUE}"


@dataclass(frozen=True, slots=True)
class Operator:
    """The wired parts; tests and benchmarks reach in here."""

    manager: Manager
    inventory: Inventory
    pools: PoolController
    serving: ServingController
    tuning: TuningController


async def build(
    client: KubeClient,
    settings: OperatorSettings,
    planner: PlanningService | None = None,
    live: LiveMetrics | None = None,
) -> Operator:
    """Wire everything; nothing runs yet. Asks the API server once whether it serves ResourceSlices. `planner` and `live`
    None: the installation's own."""
    metrics = RuntimeMetrics()
    client.observer = metrics.observe_request
    fence = Fence() if settings.leader_election else Fence.always_open()
    manager = Manager(metrics=metrics, fence=fence)
    facts = catalog.load()
    inventory = Inventory(facts)

    nodes = Informer(client, NODES, NODE_PROJECTION)
    pods = Informer(client, PODS, Projection(PodWire, project_pod), indexers=POD_INDEXES)
    pools = Informer(client, GPU_POOLS, POOL_PROJECTION)
    slices = Informer(client, RESOURCE_SLICES, SLICE_PROJECTION) if await _serves(client, RESOURCE_SLICES) else None
    deployments = Informer(client, SERVING_DEPLOYMENTS, Projection(DeploymentWire, project_deployment))
    services = Informer(client, SERVICES, Projection(ServiceWire, service_row), label_selector=_OURS)
    budgets = Informer(client, POD_DISRUPTION_BUDGETS, Projection(BudgetWire, budget_row), label_selector=_OURS)
    routers, routed = await routing(client, settings.routers, _serves, _OURS)
    informers: list[Informer[Any, Any] | None] = [pools, nodes, slices, pods, deployments, services, budgets]
    informers += routed.values()
    for informer in informers:
        if informer is not None:
            manager.add_informer(informer)
    # First the inventory, then the controllers: handlers run in this order.
    feed(inventory, pools=pools, nodes=nodes, pods=pods, slices=slices, deployments=deployments)

    calibration = CalibrationWatch(settings.calibration)
    metrics.registry.register(calibration)
    manager.add_background(calibration.run)
    recorder = EventRecorder(client, "trimtab-operator", instance=_identity(settings))
    manager.add_background(recorder.run)
    pool_controller = PoolController(
        pools,
        inventory,
        Writer(client, "trimtab-pools", fence.check),
        recorder=recorder,
        metrics=metrics.controller("gpupool"),
    )
    serving = ServingController(
        deployments=deployments,
        pods=pods,
        nodes=nodes,
        services=services,
        budgets=budgets,
        routed=routed,
        supply=inventory,
        inventory_pod=inventory.set_pod,
        catalog=facts,
        settings=PlanSettings(
            render=RenderSettings(
                engine_images=settings.engine_images, routers=routers, cluster_domain=settings.cluster_domain
            )
        ),
        writer=Writer(client, "trimtab-serving", fence.check),
        fence=fence,
        recorder=recorder,
        metrics=metrics.controller("servingdeployment"),
        planner=CountedPlanning(planner or PlannerProcess(options=planner_options(settings)), metrics.registry),
        rooms=lambda: plannable(inventory),
        calibration=lambda: calibration.used,
        live=live or EnginePages(),
        workers=settings.workers,
    )
    watch_line(metrics.registry, serving.questions_waiting)
    inventory.subscribe(serving.room_changed)
    calibration.subscribe(serving.calibration_changed)
    manager.add_background(serving.run_planner)
    manager.add_background(serving.run_readings)
    manager.add_background(pool_controller.expire_reservations)
    manager.add_controller(pool_controller.controller)
    manager.add_controller(serving.controller)
    places = CachedPlaces(client, pools)
    desk = desk_of(settings.database_url, partial(deployment_in, deployments.store), places)
    tuning = add_tuning(client, manager, desk, recorder)
    if settings.leader_election:
        times = LeaderTimes()
        leases = KubeLeaseStore(
            client, settings.process.namespace, settings.lease_name, call_timeout_s=times.retry_period_s
        )
        manager.elect(LeaderElector(leases, _identity(settings), fence, name=settings.lease_name, times=times))
    return Operator(manager, inventory, pool_controller, serving, tuning)


async def serve(settings: OperatorSettings) -> None:
    """Run until SIGTERM."""
    access = await load_access(settings.process.kubeconfig)
    async with KubeClient(access, user_agent="trimtab-operator") as client:
        parts = await build(client, settings)
        await parts.manager.endpoints.start(settings.process.host, settings.process.port)
        log.info("operator on %s:%d", settings.process.host, parts.manager.endpoints.port)
        try:
            await parts.manager.run(handle_signals=True)
        finally:
            await parts.manager.endpoints.stop()


def run(settings: OperatorSettings) -> None:
    """The process."""
    configure(settings.process.log_level, settings.process.log_format)
    uvloop.run(serve(settings))


def _identity(settings: OperatorSettings) -> str:
    """Who holds the lease: unique per process, so that a restarted container is another candidate."""
    return f"{settings.process.pod_name or os.uname().nodename}_{uuid.uuid4().hex[:8]}"


async def _serves(client: KubeClient, resource: Resource) -> bool:
    """Whether there is such a resource. Waits for a server that cannot say."""
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            await client.list_page(resource, limit=1)
        except NotFound:
            return False
        except KubeError as error:
            log.warning("%s; again in %g s", error, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        else:
            return True
