"""Separate prefill and decode replicas: how they are rendered, what is refused, and how one object keeps both."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.model import labels
from operators.serving.render import pod, replica_template
from operators.serving.validate import validate
from tests.unit.serving import simulation
from tests.unit.serving.cases import CATALOG, SETTINGS, deployment, one_choice, split

MODEL = {"name": "llama-3.3-70b", "source": "pvc:models/llama"}
CHOICE: dict[str, Any] = {"accelerator": "h100-sxm-80gb", "engine": "vllm", "tensorParallel": 4}
ROUTERS = {"vllm": "vllm-router", "sglang": "sglang-router"}


def engine_container(index: int, engine: str = "vllm") -> tuple[dict[str, Any], dict[str, Any]]:
    made = split(engine, ROUTERS[engine])
    assert validate(made, CATALOG, SETTINGS) == []
    manifest = pod(replica_template(made, index, CATALOG, SETTINGS), made, 0, 0, "node", "pool")
    return manifest, manifest["spec"]["containers"][0]


def test_the_roles_of_vllm_find_each_other_by_the_pod_s_address() -> None:
    for index, (role, kv_role) in enumerate((("Prefill", "kv_producer"), ("Decode", "kv_consumer"))):
        manifest, engine = engine_container(index)
        told = engine["args"][engine["args"].index("--kv-transfer-config") + 1]
        assert told == f'{{"kv_connector":"NixlConnector","kv_role":"{kv_role}"}}'
        env = {variable["name"]: variable for variable in engine["env"]}
        assert env["VLLM_NIXL_SIDE_CHANNEL_HOST"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
        assert env["VLLM_NIXL_SIDE_CHANNEL_PORT"]["value"] == "5600"
        assert [port["containerPort"] for port in engine["ports"]] == [8000, 5600]
        assert manifest["metadata"]["labels"][labels.ROLE] == role


def test_the_roles_of_sglang_are_modes_and_the_router_reads_the_bootstrap_port_off_the_pod() -> None:
    manifest, engine = engine_container(1, "sglang")
    at = engine["args"].index("--disaggregation-mode")
    assert engine["args"][at : at + 4] == [
        "--disaggregation-mode",
        "decode",
        "--disaggregation-transfer-backend",
        "nixl",
    ]
    assert "sglang.ai/bootstrap-port" not in manifest["metadata"]["annotations"]
    assert engine_container(0, "sglang")[0]["metadata"]["annotations"]["sglang.ai/bootstrap-port"] == "8998"


def test_an_aggregated_replica_knows_nothing_of_roles() -> None:
    made = one_choice(MODEL["name"], MODEL["source"], CHOICE)
    manifest = pod(replica_template(made, 0, CATALOG, SETTINGS), made, 0, 0, "node", "pool")
    assert "--kv-transfer-config" not in manifest["spec"]["containers"][0]["args"]
    assert labels.ROLE not in manifest["metadata"]["labels"]
    assert len(manifest["spec"]["containers"][0]["ports"]) == 1


def test_the_two_roles_never_share_a_revision() -> None:
    made = split("vllm", "vllm-router")
    found = [replica_template(made, index, CATALOG, SETTINGS) for index in range(2)]
    assert [template.role for template in found] == ["Prefill", "Decode"]
    assert [template.choice_index for template in found] == [0, 0]
    assert found[0].revision != found[1].revision


@pytest.mark.parametrize(
    ("prefill", "decode", "router", "field", "words"),
    [
        ({"engine": "trtllm-serve"}, {"engine": "trtllm-serve"}, "vllm-router", "prefill", "of role Prefill are not"),
        ({"tensorParallel": 16}, {}, "vllm-router", "prefill", "a Prefill replica of 2 pods is not rendered"),
        ({}, {"engine": "sglang"}, "vllm-router", "spec.roles", "different engines cannot hand over"),
        ({}, {}, "sglang-router", "spec.routing.router", "set it to vllm-router"),
        ({}, {}, "service", "spec.routing.router", "set it to vllm-router"),
        ({}, {"knobs": {"maxNumSeq": 8}}, "vllm-router", "spec.roles.decode.choices[0]", "maxNumSeqs"),
    ],
)
def test_what_cannot_work_is_refused(
    prefill: dict[str, Any], decode: dict[str, Any], router: str, field: str, words: str
) -> None:
    made = deployment(
        model=MODEL,
        explicit=None,
        roles={"prefill": {"choices": [{**CHOICE, **prefill}]}, "decode": {"choices": [{**CHOICE, **decode}]}},
        routing={"router": router},
    )
    errors = validate(made, CATALOG, SETTINGS)
    assert any(words in str(error) and field in str(error) for error in errors), [str(error) for error in errors]


def world(replicas: int = 1, gpus: int = 12) -> simulation.World:
    one = {"accelerator": simulation.H100, "engine": "vllm"}
    made = simulation.World()
    made.add_nodes(simulation.H100, gpus)
    made.apply(
        simulation.deployment(
            explicit=None,
            roles={"prefill": {"choices": [one]}, "decode": {"replicas": 2, "choices": [one]}},
            routing={"router": "vllm-router"},
            replicas=replicas,
        )
    )
    return made


def by_role(made: simulation.World) -> dict[str | None, int]:
    out: dict[str | None, int] = {}
    for view in made.pods.values():
        out[view.role] = out.get(view.role, 0) + 1
    return out


def test_one_object_keeps_both_roles_and_scales_them_together() -> None:
    made = world()
    made.settle()
    assert by_role(made) == {"Prefill": 1, "Decode": 2}
    status = made.wanted.status
    assert (status.replicas, status.ready_replicas, status.updated_replicas) == (1, 1, 1)
    assert [(part.role, part.desired, part.ready, part.reason) for part in status.roles] == [
        ("Prefill", 1, 1, "AllReady"),
        ("Decode", 2, 2, "AllReady"),
    ]
    assert [(verdict.role, verdict.index, verdict.replicas) for verdict in status.choices] == [
        ("Prefill", 0, 1),
        ("Decode", 0, 2),
    ]
    ready = next(condition for condition in status.conditions if condition.type == "Ready")
    assert ready.status == "True"
    assert ready.message == "prefill: 1 of 1 replicas ready; decode: 2 of 2 replicas ready"
    made.apply(made.wanted.model_copy(update={"spec": made.wanted.spec.model_copy(update={"replicas": 3})}))
    made.settle()
    assert by_role(made) == {"Prefill": 3, "Decode": 6}
    assert made.wanted.status.replicas == 3


def test_a_role_without_room_makes_the_endpoint_unready_and_says_which() -> None:
    made = world(gpus=2)
    made.settle()
    assert by_role(made) == {"Prefill": 1, "Decode": 1}
    status = made.wanted.status
    assert (status.replicas, status.ready_replicas) == (0, 0)
    ready = next(condition for condition in status.conditions if condition.type == "Ready")
    assert ready.status == "False"
    assert "prefill: 1 of 1 replicas ready; decode: 1 of 2 replicas ready" in ready.message
    assert made.waits
    made.add_nodes(simulation.H100, 3)
    made.settle()
    assert made.wanted.status.ready_replicas == 1


def test_from_one_role_to_two_and_back_the_old_pods_leave_when_the_new_answer() -> None:
    made = world()
    split_spec = made.wanted.spec
    made.apply(simulation.deployment(replicas=2))
    made.settle()
    assert by_role(made) == {None: 2}
    made.apply(made.wanted.model_copy(update={"spec": split_spec}))
    made.settle()
    assert by_role(made) == {"Prefill": 1, "Decode": 2}
    made.apply(simulation.deployment(replicas=2))
    made.settle()
    assert by_role(made) == {None: 2}


def test_the_budget_counts_pods_because_the_scale_counts_sets() -> None:
    made = world()
    made.settle()
    (budget,) = [shape for (kind, _), shape in made.owned.items() if kind == "poddisruptionbudgets"]
    assert budget[1:3] == (2, None)  # minAvailable of three pods


def test_suspending_ends_both() -> None:
    made = world()
    made.settle()
    made.apply(made.wanted.model_copy(update={"spec": made.wanted.spec.model_copy(update={"suspend": True})}))
    made.settle()
    assert by_role(made) == {}
