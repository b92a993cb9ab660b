"""What stands in front of the replicas: rendered, applied, replaced when the spec changes, refused when it is not here."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from controlplane.kube import Resource
from controlplane.model import labels
from controlplane.model.routers import OFFERED, InstalledRouter, RouterName
from controlplane.model.serving import ServingDeployment
from controlplane.operator_routing import routing
from operators.serving.render import RenderSettings, endpoint
from operators.serving.routers import ROUTED, routing_objects
from operators.serving.services import service
from operators.serving.validate import validate
from tests.unit.serving import simulation
from tests.unit.serving.cases import CATALOG, ROUTERS, SETTINGS, one_choice

L40S = {"accelerator": "l40s", "engine": "vllm"}
EXTENSION: RouterName = "gateway-inference-extension"


def make(choice: dict[str, Any] | None = None, **routed: Any) -> ServingDeployment:
    return one_choice("llama-3.1-8b", "pvc:models/llama", choice or L40S, routing=routed)


def args_of(deployment: ServingDeployment) -> list[str]:
    ((_, manifest),) = routing_objects(deployment, ROUTERS, 8000)
    return list(manifest["spec"]["template"]["spec"]["containers"][0]["args"])


def test_a_service_needs_nothing_beside_it() -> None:
    assert routing_objects(make(), ROUTERS, 8000) == []
    assert service(make())["spec"]["selector"][labels.LEADER] == "true"


def test_clients_of_a_router_reach_it_by_the_name_of_the_service() -> None:
    deployment = make(router="sglang-router")
    assert service(deployment)["spec"]["selector"] == {labels.ROUTER: "chat"}
    ((plural, manifest),) = routing_objects(deployment, ROUTERS, 8000)
    assert plural == "deployments"
    pod = manifest["spec"]["template"]
    assert pod["metadata"]["labels"][labels.ROUTER] == "chat"
    assert labels.DEPLOYMENT not in pod["metadata"]["labels"]  # it is no engine replica
    assert pod["spec"]["containers"][0]["ports"][0]["name"] == service(deployment)["spec"]["ports"][0]["targetPort"]


@pytest.mark.parametrize(
    ("policy", "word"), [(None, "cache_aware"), ("round-robin", "round_robin"), ("random", "random")]
)
def test_the_router_is_told_the_policy_that_is_predicted(policy: str | None, word: str) -> None:
    deployment = make(router="sglang-router", policy=policy)
    args = args_of(deployment)
    assert args[args.index("--policy") + 1] == word
    assert deployment.spec.routing.picks_by == (policy or OFFERED["sglang-router"][0])


def test_it_looks_for_the_engines_own_port() -> None:
    ((_, manifest),) = routing_objects(make({**L40S, "engine": "sglang"}, router="sglang-router"), ROUTERS, 30000)
    args = manifest["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[args.index("--service-discovery-port") + 1] == "30000"
    assert args[args.index("--service-discovery-namespace") + 1] == "prod"


def test_the_extension_s_objects_name_each_other() -> None:
    objects = dict(routing_objects(make(router=EXTENSION, endpointPicker="picker"), ROUTERS, 8000))
    pool, route = objects["inferencepools"], objects["httproutes"]
    assert pool["spec"]["endpointPickerRef"]["name"] == "picker"
    assert route["spec"]["parentRefs"] == [{"name": "inference", "namespace": "gateways"}]
    assert route["spec"]["rules"][0]["backendRefs"][0]["name"] == pool["metadata"]["name"]
    assert objects["inferenceobjectives"]["spec"]["poolRef"]["name"] == pool["metadata"]["name"]
    assert endpoint(make(router=EXTENSION), SETTINGS).url == "http://chat.prod.llm.example"


def test_the_hash_follows_what_is_rendered() -> None:
    def signed(**routed: Any) -> str:
        ((_, manifest),) = routing_objects(make(router="sglang-router", **routed), ROUTERS, 8000)
        return str(manifest["metadata"]["annotations"][labels.RENDERED])

    assert signed() == signed(policy="prefix-affinity")
    assert signed() != signed(policy="random")


@pytest.mark.parametrize(
    ("routers", "words"),
    [
        ({}, "sglang-router is not part of this installation"),
        ({"sglang-router": InstalledRouter(image="a", missing="no such thing here")}, "no such thing here"),
    ],
)
def test_what_is_not_installed_is_refused(routers: dict[RouterName, InstalledRouter], words: str) -> None:
    errors = validate(make(router="sglang-router"), CATALOG, RenderSettings(routers=routers))
    assert [error.reason for error in errors] == ["RouterMissing"]
    assert words in str(errors[0])
    assert "spec.routing.router" in str(errors[0])


def test_engines_of_two_ports_share_no_router() -> None:
    mixed = simulation.deployment(
        simulation.choice(), simulation.choice(engine="sglang"), routing={"router": "sglang-router"}
    )
    assert any("on one port" in str(error) for error in validate(mixed, CATALOG, SETTINGS))


def routed_of(world: simulation.World) -> set[tuple[str, str]]:
    return {(kind, name) for kind, name in world.owned if kind in ROUTED}


def test_a_change_of_router_takes_the_old_one_s_objects_away() -> None:
    world = simulation.World()
    world.add_nodes(simulation.H100, 2)
    world.apply(simulation.deployment(routing={"router": "sglang-router"}))
    world.settle()
    assert routed_of(world) == {("deployments", "chat-router")}
    pods = set(world.pods)
    world.apply(simulation.deployment(routing={"router": EXTENSION}))
    world.settle()
    assert routed_of(world) == {(kind, "chat") for kind in ROUTED if kind != "deployments"}
    world.apply(simulation.deployment())
    world.settle()
    assert routed_of(world) == set()
    assert set(world.pods) == pods  # no engine restarts for it


def test_a_router_deleted_by_hand_comes_back() -> None:
    world = simulation.World()
    world.add_nodes(simulation.H100, 1)
    world.apply(simulation.deployment(routing={"router": "sglang-router"}))
    world.settle()
    del world.owned["deployments", "chat-router"]
    world.step()
    assert routed_of(world) == {("deployments", "chat-router")}


@pytest.mark.parametrize("served", [True, False])
def test_the_operator_asks_once_whether_the_extension_is_there(served: bool) -> None:
    asked: list[str] = []

    async def serves(_client: Any, resource: Resource) -> bool:
        asked.append(f"{resource.plural}.{resource.api_version}")
        return served or resource.plural == "httproutes"

    class Client:
        """Never called: informers start later."""

    found, informers = asyncio.run(routing(Client(), ROUTERS, serves, "a=b"))  # type: ignore[arg-type]
    assert asked == [
        "inferencepools.inference.networking.k8s.io/v1",
        "inferenceobjectives.inference.networking.x-k8s.io/v1alpha2",
        "httproutes.gateway.networking.k8s.io/v1",
    ]
    assert set(informers) == (set(ROUTED) if served else {"deployments"})
    missing = found[EXTENSION].missing
    assert (missing is None) == served
    if missing is not None:
        assert "does not serve inferencepools of inference.networking.k8s.io/v1, inferenceobjectives" in missing
        assert "restart the operator" in missing
