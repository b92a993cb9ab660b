"""Auto deployments, pools and answers that the planning tests share."""

from __future__ import annotations

from typing import Any

from controlplane.model.auto import PlanStatus
from controlplane.model.plans import PlannablePool, PlanRequest, ServingPlan
from controlplane.model.serving import ServingDeployment
from controlplane.testing.fake_planner import FakePlanner
from operators.pools.plannable import PoolRoom
from operators.serving.plan_adopt import plan_status
from operators.serving.plan_request import Asked, ask
from operators.serving.render import RenderSettings
from tests.unit.serving.cases import CATALOG
from tests.unit.serving.simulation import H100, L40S, NAME, NAMESPACE, START_S, UID

RENDER = RenderSettings(engine_images={"openvino": "registry.example/trimtab-engine:0.1.0"})
WORKLOAD = {"ratePerSecond": 2, "input": {"tokens": 512}, "output": {"tokens": 128}}


def auto(generation: int = 1, status: PlanStatus | None = None, **spec: Any) -> ServingDeployment:
    """An auto deployment of Llama 3.1 8B; `spec` in camelCase."""
    stored = {} if status is None else {"plan": status.model_dump(mode="json", by_alias=True)}
    return ServingDeployment.model_validate(
        {
            "metadata": {"name": NAME, "namespace": NAMESPACE, "uid": UID, "generation": generation},
            "spec": {
                "model": {"name": "llama-3.1-8b", "source": "pvc:models/llama"},
                "auto": {},
                "workload": WORKLOAD,
                **spec,
            },
            "status": stored,
        }
    )


def room(name: str, accelerator: str = H100, free: int = 8, **facts: Any) -> PoolRoom:
    pool = PlannablePool(name=name, accelerator=accelerator, free=0, per_node=8, **facts)
    cpu = accelerator.startswith("cpu-")
    return PoolRoom(pool, free * (1000 if cpu else 1), 1000 if cpu else 1)


ROOMS = (room("big"), room("small", L40S))


def asked(deployment: ServingDeployment | None = None, *rooms: PoolRoom) -> Asked:
    return ask(deployment or auto(), rooms or ROOMS, (), CATALOG, RENDER)


def answer(request: PlanRequest, **options: Any) -> ServingPlan:
    return FakePlanner(options).plan(request)


def status(
    deployment: ServingDeployment | None = None, *rooms: PoolRoom, at_s: float = START_S, **options: Any
) -> PlanStatus:
    """The plan in force after a first answer of the fake planner."""
    wanted = deployment or auto()
    question = asked(wanted, *rooms)
    return plan_status(answer(question.request, **options), question, wanted, CATALOG, RENDER, at_s)
