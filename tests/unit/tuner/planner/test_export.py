"""Exports: command lines, ServingDeployments and plain manifests say the same, router and KV connector included."""

import json

import pytest
import yaml
from click.testing import CliRunner

from controlplane.catalog import load
from controlplane.cli.plan import plan as plan_command
from controlplane.model.errors import Unsupported
from controlplane.model.plans import Allowed, PlannedRole, ServingCandidate
from controlplane.model.resource import ObjectMeta
from controlplane.model.routing import Routing
from controlplane.model.serving import AcceleratorChoice, ServingDeployment, ServingDeploymentSpec
from operators.serving.render import pod, replica_template
from operators.serving.validate import validate
from tests.unit.serving.cases import SETTINGS
from tests.unit.tuner.planner.fakes import FakePieces, request
from tuner.serving.planner import Planner
from tuner.serving.planner.export import launch_lines, lost_split, manifest
from tuner.serving.planner.export_nodes import unplaced
from tuner.serving.planner.export_plain import plain_manifests

CATALOG = load()
MODEL = CATALOG.models["llama-3.1-70b"]
IMAGES = {"vllm-router": "registry.example/vllm-router:1", "sglang-router": "registry.example/sglang-router:1"}


def candidate(engine: str, prefill: int = 0, decode: int = 0, aggregated: int = 0, **choice) -> ServingCandidate:
    shape = AcceleratorChoice(**{"accelerator": "h100-sxm-80gb", "engine": engine, "tensor_parallel": 4, **choice})
    counts = {"prefill": prefill, "decode": decode, "aggregated": aggregated}
    roles = [
        PlannedRole(role=role, pool="h100", replicas=count, choice=shape) for role, count in counts.items() if count
    ]
    return ServingCandidate(roles=roles, accelerators=4, deployable=True, reason="Chosen", message="")


def deployed(made: dict) -> ServingDeployment:
    return ServingDeployment(
        metadata=ObjectMeta(name=made["metadata"]["name"], namespace="prod", uid="u"),
        spec=ServingDeploymentSpec.model_validate(made["spec"]),
    )


@pytest.mark.parametrize(("engine", "router"), [("vllm", "vllm-router"), ("sglang", "sglang-router")])
def test_a_split_plan_is_one_object_with_both_roles_and_its_router(engine, router):
    asked = request(routing=Routing(router=router))
    made = manifest(candidate(engine, prefill=2, decode=4), asked, MODEL, "pvc:models/llama", "chat")
    assert made["spec"]["replicas"] == 2
    assert made["spec"]["roles"]["prefill"]["replicas"] == 1
    assert made["spec"]["roles"]["decode"]["replicas"] == 2
    assert made["spec"]["routing"] == {"router": router}
    assert validate(deployed(made), CATALOG, SETTINGS) == []


@pytest.mark.parametrize(("engine", "router"), [("vllm", "vllm-router"), ("sglang", "sglang-router")])
def test_the_lines_of_a_split_plan_are_those_the_operator_renders(engine, router):
    routing = Routing(router=router)
    lines = launch_lines(candidate(engine, prefill=1, decode=2), MODEL, None, CATALOG, routing)
    commands = [line for line in lines if not line.startswith("#")]
    assert len(commands) == 3
    made = manifest(candidate(engine, prefill=1, decode=2), request(routing=routing), MODEL, "pvc:a/b", "chat")
    deployment = deployed(made)
    for index, command in enumerate(commands[:2]):
        template = replica_template(deployment, index, CATALOG, SETTINGS)
        args = pod(template, deployment, 0, 0, "node", "pool")["spec"]["containers"][0]["args"]
        flag = "--kv-transfer-config" if engine == "vllm" else "--disaggregation-mode"
        assert args[args.index(flag) + 1] in command.replace("'", "")
    assert commands[0].startswith("VLLM_NIXL_SIDE_CHANNEL_HOST=") == (engine == "vllm")
    split = "--vllm-pd-disaggregation" if engine == "vllm" else "--pd-disaggregation"
    assert split in commands[2]
    assert commands[2].count("--decode ") == 2
    assert ("http://PREFILL_1:30000 8998" in commands[2]) == (engine == "sglang")


def test_aggregated_replicas_behind_a_router_are_its_workers():
    lines = launch_lines(candidate("vllm", aggregated=2), MODEL, None, CATALOG, Routing(router="sglang-router"))
    assert "--policy cache_aware --worker-urls http://REPLICA_1:8000 http://REPLICA_2:8000" in lines[-1]
    assert launch_lines(candidate("vllm", aggregated=2), MODEL, None, CATALOG)[-1].startswith("vllm serve")
    gateway = launch_lines(
        candidate("vllm", aggregated=2), MODEL, None, CATALOG, Routing(router="gateway-inference-extension")
    )
    assert "inference extension" in gateway[-1]


@pytest.mark.parametrize(
    ("accelerator", "label", "product"),
    [
        ("h100-sxm-80gb", "nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3"),
        ("mi300x-192gb", "amd.com/gpu.product-name", "AMD_Instinct_MI300X_OAM"),
    ],
)
def test_plain_manifests_stay_on_the_planned_accelerator(accelerator, label, product):
    chosen = candidate("vllm", aggregated=1, accelerator=accelerator)
    objects = plain_manifests(chosen, request(), MODEL, None, CATALOG, "chat", {"vllm/amd": "rocm/vllm:1"})
    pod = next(item for item in objects if item["kind"] == "Deployment")["spec"]["template"]["spec"]
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    asked = {one["key"]: one["values"] for term in terms for one in term["matchExpressions"]}
    assert product in asked[label]
    resource = next(iter(pod["containers"][0]["resources"]["limits"]))
    assert pod["tolerations"] == [{"key": resource, "operator": "Exists", "effect": "NoSchedule"}]
    assert unplaced(chosen.roles, CATALOG) == []


def test_an_accelerator_without_a_node_label_is_warned_of():
    chosen = candidate("vllm", aggregated=1, accelerator="gaudi-3")
    objects = plain_manifests(chosen, request(), MODEL, None, CATALOG, "chat", {"vllm/intel": "habana/vllm:1"})
    pod = next(item for item in objects if item["kind"] == "Deployment")["spec"]["template"]["spec"]
    assert "affinity" not in pod
    (said,) = unplaced(chosen.roles, CATALOG)
    assert "gaudi-3" in said and "any node" in said and "nodeSelector" in said


def test_a_mix_that_loses_its_split_as_choices_is_told():
    one, other = candidate("vllm", aggregated=2).roles[0], candidate("vllm", aggregated=3, accelerator="l40s").roles[0]
    mix = candidate("vllm", aggregated=2).model_copy(
        update={"roles": [one, other.model_copy(update={"pool": "cheap"})]}
    )
    said = lost_split(mix)
    assert said is not None and "2 in h100 + 3 in cheap" in said and "spec.auto" in said
    assert lost_split(candidate("vllm", aggregated=2)) is None
    assert lost_split(candidate("vllm", prefill=1, decode=2)) is None


def test_a_revision_is_a_flag_of_its_own():
    (_, line) = launch_lines(candidate("vllm", aggregated=1), MODEL, "hf:org/model@abc", CATALOG)
    assert "serve org/model --revision abc" in line


@pytest.mark.parametrize(
    ("engine", "knobs"),
    [
        ("vllm", {"maxNumBatchedTokens": 8192}),
        ("sglang", {"chunkedPrefillSize": 8192}),
        ("trtllm-serve", {"maxNumBatchedTokens": 8192, "enablePrefixCaching": False}),
    ],
)
def test_plain_manifests_start_what_the_command_line_says(engine, knobs):
    chosen = candidate(engine, aggregated=3, knobs=knobs)
    objects = plain_manifests(chosen, request(), MODEL, "pvc:models/llama", CATALOG, "chat")
    by_kind = {item["kind"]: item for item in objects}
    assert by_kind["Deployment"]["spec"]["replicas"] == 3
    template = by_kind["Deployment"]["spec"]["template"]
    container = template["spec"]["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    assert "8192" in " ".join(container["args"]) + json.dumps(by_kind.get("ConfigMap", {}))
    assert "/model/llama" in container["args"]
    selector = by_kind["Service"]["spec"]["selector"]
    assert selector.items() <= template["metadata"]["labels"].items()
    assert by_kind["Service"]["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in template["spec"]["volumes"]}
    if engine == "trtllm-serve":
        assert container["args"][-1] == "/etc/engine/config.yaml"
        assert "config.yaml" in by_kind["ConfigMap"]["data"]


@pytest.mark.parametrize(("engine", "router"), [("vllm", "vllm-router"), ("sglang", "sglang-router")])
def test_plain_manifests_of_a_split_plan_have_a_router_that_finds_both_roles(engine, router):
    objects = plain_manifests(
        candidate(engine, prefill=1, decode=2),
        request(routing=Routing(router=router)),
        MODEL,
        "pvc:models/llama",
        CATALOG,
        "chat",
        IMAGES,
    )
    assert [item["kind"] for item in objects] == [
        *("Deployment", "Deployment", "ServiceAccount", "Role", "RoleBinding", "Deployment", "Service")
    ]
    front = objects[5]["spec"]["template"]["spec"]
    args = front["containers"][0]["args"]
    for item, role in zip(objects[:2], ("prefill", "decode"), strict=True):
        at = args.index(f"--{role}-selector")
        wanted = dict(word.split("=") for word in args[at + 1 : at + 3])
        assert wanted.items() <= item["spec"]["template"]["metadata"]["labels"].items()
    assert front["serviceAccountName"] == objects[2]["metadata"]["name"]
    annotations = objects[0]["spec"]["template"]["metadata"].get("annotations", {})
    assert ("sglang.ai/bootstrap-port" in annotations) == (engine == "sglang")
    if engine == "vllm":
        env = objects[1]["spec"]["template"]["spec"]["containers"][0]["env"]
        assert {"name": "VLLM_NIXL_SIDE_CHANNEL_PORT", "value": "5600"} in env


@pytest.mark.parametrize(
    ("chosen", "routing", "images", "words"),
    [
        (candidate("vllm", aggregated=1, pipeline_parallel=4), Routing(), {}, "spans nodes"),
        (candidate("openvino", aggregated=1), Routing(), {}, "no image of openvino"),
        (candidate("vllm", aggregated=2), Routing(router="sglang-router"), {}, "no image of sglang-router"),
        (candidate("vllm", aggregated=2), Routing(router="gateway-inference-extension"), {}, "endpoint picker"),
    ],
)
def test_what_a_deployment_cannot_be_is_refused(chosen, routing, images, words):
    with pytest.raises(Unsupported, match=words):
        plain_manifests(chosen, request(routing=routing), MODEL, None, CATALOG, "chat", images)


@pytest.mark.parametrize("export", ["vllm", "sglang", "trtllm", "manifest", "kubernetes"])
def test_the_command_exports(export, monkeypatch):
    monkeypatch.setattr("tuner.serving.planner.standard.StandardPieces", lambda **_: FakePieces())
    words = ["serving", "--model", "llama-3.1-70b", "--pool", "h100=h100:32", "--rate", "8", "--input", "1024",
             "--output-tokens", "256", "--ttft-p95", "1000", "--router", "sglang-router", "--router-policy",
             "round-robin", "--image", "sglang-router=registry.example/router:1", "--export", export]  # fmt: skip
    said = CliRunner().invoke(plan_command, words, catch_exceptions=False)
    assert said.exit_code == 0, said.output
    assert "round_robin" in said.stdout or export == "manifest"
    if export == "manifest":
        assert yaml.safe_load(said.stdout)["spec"]["routing"] == {"router": "sglang-router", "policy": "round-robin"}


def test_the_answer_says_how_requests_reach_replicas():
    answer = Planner(pieces=FakePieces()).plan(request(allowed=Allowed(engines=["vllm"])))
    assert (answer.request.routing.router, answer.request.routing.picks_by) == ("service", "random")
