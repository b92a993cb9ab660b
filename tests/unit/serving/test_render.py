"""Pods, Services and budgets as the cluster will judge them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from controlplane.model import labels
from controlplane.model.cluster import PoolToleration
from controlplane.model.errors import InvalidSpec
from controlplane.model.serving import ServingDeployment
from operators.serving.render import (
    RenderSettings,
    endpoint,
    grace_s,
    headless_service,
    pod,
    pod_disruption_budget,
    replica_template,
    service,
)
from tests.unit.serving.cases import CATALOG, GOLDENS, SETTINGS, deployment, one_choice

R1 = "hf:deepseek-ai/DeepSeek-R1"


def gang(engine: str, **fields: Any) -> ServingDeployment:
    choice = {"accelerator": "h100-sxm-80gb", "engine": engine, "tensorParallel": 16, **fields}
    return one_choice("deepseek-r1", R1, choice)


def render(made: ServingDeployment, slot: int = 0, rank: int = 0) -> dict[str, Any]:
    return pod(replica_template(made, 0, CATALOG, SETTINGS), made, slot, rank, "node-1", "pool-a")


def engine_of(manifest: dict[str, Any]) -> dict[str, Any]:
    return next(item for item in manifest["spec"]["containers"] if item["name"] == "engine")


def flag(manifest: dict[str, Any], name: str) -> str:
    args = engine_of(manifest)["args"]
    return str(args[args.index(name) + 1])


def test_same_arguments_give_the_same_pod_and_each_slot_its_own_name() -> None:
    made = deployment()
    assert render(made) == render(made)
    assert len({render(made, slot)["metadata"]["name"] for slot in range(5)}) == 5


def test_rendering_does_not_leak_between_pods() -> None:
    made = deployment(podTemplate={"metadata": {"labels": {"team": "a"}}})
    template = replica_template(made, 0, CATALOG, SETTINGS)
    first = pod(template, made, 0, 0, "n", "p")
    first["spec"]["containers"][0]["env"].clear()
    first["metadata"]["labels"].clear()
    again = pod(template, made, 0, 0, "n", "p")
    assert engine_of(again)["env"] and again["metadata"]["labels"]["team"] == "a"


def test_the_pod_says_where_it_was_placed_and_may_run_nowhere_else() -> None:
    manifest = render(deployment())
    affinity = manifest["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert affinity == {
        "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}]
    }
    assert manifest["metadata"]["labels"][labels.POOL] == "pool-a"
    assert manifest["metadata"]["annotations"][labels.UNITS] == "1000"
    assert "nodeName" not in manifest["spec"]


def test_tolerations_of_the_pool() -> None:
    made = deployment()
    template = replica_template(made, 0, CATALOG, SETTINGS)
    wanted = [PoolToleration(key="gpu", effect="NoSchedule"), PoolToleration(key="team", value="a")]
    assert pod(template, made, 0, 0, "n", "p", wanted)["spec"]["tolerations"] == [
        {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "team", "operator": "Equal", "value": "a"},
    ]


@pytest.mark.parametrize("case", GOLDENS, ids=lambda case: case.name)
def test_every_pod_is_restricted_and_owned(case: Any) -> None:
    for manifest in case.objects():
        owner = manifest["metadata"]["ownerReferences"]
        assert [item["controller"] for item in owner] == [True]
        if manifest["kind"] != "Pod":
            continue
        spec, engine = manifest["spec"], engine_of(manifest)
        assert spec["securityContext"]["runAsNonRoot"] and spec["automountServiceAccountToken"] is False
        assert engine["securityContext"]["allowPrivilegeEscalation"] is False
        assert engine["securityContext"]["capabilities"]["drop"] == ["ALL"]
        assert all(len(value) <= 63 for value in manifest["metadata"]["labels"].values())
        mounted = {mount["name"] for mount in engine["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in spec["volumes"]}


def test_gpu_requests_equal_limits_and_cpu_engines_ask_for_cpu_and_memory() -> None:
    resources = engine_of(render(gang("vllm")))["resources"]
    assert resources["requests"] == resources["limits"] == {"nvidia.com/gpu": "8"}
    cpu = one_choice(
        "tiny-random-llama",
        "image:/m",
        {"accelerator": "cpu-x86", "engine": "openvino", "cpuMillicores": 2500, "knobs": {"cacheSizeGb": 1}},
    )
    requests = engine_of(render(cpu))["resources"]["requests"]
    assert requests["cpu"] == "2500m"
    assert 1_400_000_000 < int(requests["memory"]) < 1_600_000_000
    assert replica_template(cpu, 0, CATALOG, SETTINGS).units_per_pod == 2500
    assert flag(render(cpu), "--num-threads") == "2"


def test_a_thread_count_that_is_set_stays() -> None:
    choice = {"accelerator": "cpu-x86", "engine": "openvino", "knobs": {"numThreads": 7}}
    assert flag(render(one_choice("tiny-random-llama", "image:/m", choice)), "--num-threads") == "7"


def test_drain_and_startup_follow_the_current_spec_without_a_new_revision() -> None:
    slow = deployment(rollout={"drainSeconds": 600}, startupDeadlineSeconds=3601)
    manifest = render(slow)
    assert manifest["metadata"]["name"] == render(deployment())["metadata"]["name"]
    assert manifest["spec"]["terminationGracePeriodSeconds"] == grace_s(slow, SETTINGS) == 5 + 600 + 15
    probe = engine_of(manifest)["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] >= 3601
    assert (
        flag(
            render(one_choice("llama-3.1-8b", "pvc:m/x", {"accelerator": "h200-sxm-141gb", "engine": "vllm"})),
            "--shutdown-timeout",
        )
        == "120"
    )


def test_the_key_is_a_reference_and_never_an_argument() -> None:
    made = one_choice(
        "llama-3.1-8b",
        "pvc:m/x",
        {"accelerator": "h200-sxm-141gb", "engine": "vllm"},
        apiKeySecret={"name": "secret-name", "key": "k"},
    )
    engine = engine_of(render(made))
    assert {"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": "secret-name", "key": "k"}}} in engine["env"]
    assert not any("secret-name" in text or "api-key" in text for text in engine["command"] + engine["args"])


def test_a_setting_cannot_pull_a_variable_onto_the_command_line() -> None:
    choice = {"accelerator": "h200-sxm-141gb", "engine": "vllm", "knobs": {"attentionBackend": "$(VLLM_API_KEY)"}}
    made = one_choice("llama-3.1-8b", "pvc:m/x", choice, apiKeySecret={"name": "s"})
    assert flag(render(made), "--attention-backend") == "$$(VLLM_API_KEY)"


@pytest.mark.parametrize(("source", "path"), [("pvc:m/x/y", "/model/x/y"), ("image:/w/y", "/w/y"), (R1, R1[3:])])
def test_weights_come_from_the_source(source: str, path: str) -> None:
    made = one_choice("llama-3.1-8b", source, {"accelerator": "h200-sxm-141gb", "engine": "vllm"})
    manifest = render(made)
    assert engine_of(manifest)["args"][0] == path
    volumes = {item["name"]: item for item in manifest["spec"]["volumes"]}
    assert ("model" in volumes) == source.startswith("pvc:")
    assert ("cache" in volumes) == source.startswith("hf:")
    names = {item["name"] for item in engine_of(manifest)["env"]}
    assert ("HF_HUB_OFFLINE" in names) is not source.startswith("hf:")
    if "model" in volumes:
        assert volumes["model"]["persistentVolumeClaim"] == {"claimName": "m", "readOnly": True}


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm-serve"])
def test_gangs_find_their_leader_and_only_it_is_served(engine: str) -> None:
    made = gang(engine)
    template = replica_template(made, 0, CATALOG, SETTINGS)
    assert (template.pods, template.units_per_pod, template.repair_in_place) == (2, 8, False)
    leader, worker = (pod(template, made, 3, rank, f"n{rank}", "p") for rank in range(2))
    host = f"{leader['metadata']['name']}.chat-gang.prod.svc.cluster.local"
    assert leader["spec"]["hostname"] == leader["metadata"]["name"]
    assert leader["spec"]["subdomain"] == headless_service(made)["metadata"]["name"] == "chat-gang"
    mpi = engine == "trtllm-serve"
    told = engine_of(leader if mpi else worker)
    assert any(text.startswith(host) or text == f"{host}:8" or f"{host}:8," in text for text in told["args"])
    selector = service(made)["spec"]["selector"]
    assert selector.items() <= leader["metadata"]["labels"].items()
    assert not selector.items() <= worker["metadata"]["labels"].items()
    assert headless_service(made)["spec"]["selector"].items() <= worker["metadata"]["labels"].items()
    assert headless_service(made)["spec"]["publishNotReadyAddresses"] is True
    assert leader["spec"]["restartPolicy"] == worker["spec"]["restartPolicy"] == "Never"
    assert "startupProbe" in engine_of(leader)
    assert ("startupProbe" in engine_of(worker)) == (engine == "sglang")
    hook = engine_of(worker)["lifecycle"]["preStop"]["exec"]["command"]
    assert hook[-2:] == [host, str(CATALOG.engine(engine).port)]


def test_ranks_differ_only_in_rank_name_and_node() -> None:
    made = gang("sglang")
    first, second = render(made), render(made, rank=1)
    assert flag(first, "--node-rank") == "0" and flag(second, "--node-rank") == "1"
    assert flag(first, "--dist-init-addr") == flag(second, "--dist-init-addr")
    assert first["spec"]["volumes"] == second["spec"]["volumes"]


@pytest.mark.parametrize(
    ("shape", "pods", "per_pod"),
    [
        ({"tensorParallel": 8}, 1, 8),
        ({"tensorParallel": 8, "pipelineParallel": 2}, 2, 8),
        ({"tensorParallel": 4, "pipelineParallel": 3}, 2, 6),
        ({"tensorParallel": 4, "acceleratorsPerPod": 2}, 2, 2),
        ({"tensorParallel": 4, "dataParallel": 6}, 3, 8),
        ({"tensorParallel": 1, "pipelineParallel": 11}, 11, 1),
    ],
)
def test_pods_of_a_shape(shape: dict[str, int], pods: int, per_pod: int) -> None:
    choice = {"accelerator": "h100-sxm-80gb", "engine": "vllm", **shape}
    template = replica_template(one_choice("deepseek-r1", R1, choice), 0, CATALOG, SETTINGS)
    assert (template.pods, template.units_per_pod) == (pods, per_pod)


def test_configuration_file_of_an_engine_that_wants_one() -> None:
    choice = {"accelerator": "h200-sxm-141gb", "engine": "trtllm-serve", "knobs": {"kvCacheDtype": "fp8"}}
    manifest = render(one_choice("llama-3.1-8b", "pvc:m/x", choice))
    content = yaml.safe_load(manifest["metadata"]["annotations"][labels.ENGINE_CONFIG])
    assert content == {"kv_cache_config": {"dtype": "fp8"}, "return_perf_metrics": True}
    assert flag(manifest, "--config").startswith("/etc/trimtab/engine/")


def test_images_in_order_of_precedence() -> None:
    def image(settings: RenderSettings, **fields: Any) -> str:
        choice = {"accelerator": "mi300x-192gb", "engine": "vllm", **fields}
        return replica_template(one_choice("llama-3.1-8b", "pvc:m/x", choice), 0, CATALOG, settings).image

    both = RenderSettings(engine_images={"vllm": "cuda", "vllm/amd": "rocm"})
    assert image(both, image="mine") == "mine"
    assert image(both) == "rocm"
    assert image(both, accelerator="l40s") == "cuda"
    assert image(RenderSettings(), accelerator="l40s") == CATALOG.engine("vllm").image
    with pytest.raises(InvalidSpec, match="vllm/amd"):
        image(RenderSettings(engine_images={"vllm": "cuda"}))


def test_budgets() -> None:
    made = deployment()
    single, whole = pod_disruption_budget(made)["spec"], pod_disruption_budget(made, 6)["spec"]
    assert single["maxUnavailable"] == 1 and "minAvailable" not in single
    assert single["selector"]["matchLabels"][labels.LEADER] == "true"
    assert whole["minAvailable"] == 5 and "maxUnavailable" not in whole
    assert labels.LEADER not in whole["selector"]["matchLabels"]
    assert pod_disruption_budget(made, 0)["spec"]["minAvailable"] == 0


def test_endpoint_names_what_clients_send() -> None:
    made = deployment()
    assert endpoint(made, SETTINGS).url == "http://chat.prod.svc.cluster.local:8000"
    assert endpoint(made, SETTINGS).served_model == "tiny-random-llama"
    template = replica_template(made, 0, CATALOG, SETTINGS)
    assert endpoint(made, SETTINGS, template).served_model == flag(render(made), "--served-model-name")
