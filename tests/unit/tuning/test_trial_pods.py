"""What trial pods look like: restricted whatever a template says, alone on their node, nobody's Service, one name an attempt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controlplane.catalog import load
from controlplane.model import labels
from controlplane.model.cluster import GPUPool
from controlplane.model.errors import InvalidSpec, Refused, TrimtabError, UnknownName, Unsupported
from controlplane.model.serving import ServingDeployment
from controlplane.model.tuning import Objective, Setting
from controlplane.model.tuning_job import (
    CommandTarget,
    DeploymentTarget,
    EngineTarget,
    Measuring,
    TrialPods,
    TuningSpec,
)
from operators.serving.render import RenderSettings
from operators.tuning.pod_engine import deployed, deployment_pod, engine_of, engine_pod, source_of
from operators.tuning.pod_names import Attempt, attempt_of, trial_labels, trial_pod_name
from operators.tuning.pod_nodes import Place, place_of
from operators.tuning.pod_spec import Rendered, command_pod

CATALOG = load()
IMAGES = RenderSettings(engine_images={"openvino": "registry.test/openvino:1", "vllm": "registry.test/vllm:1"})
OF = Attempt("0a1b2c3d4e5f6071", 7, 2)
GOLDEN = Path(__file__).parent / "golden_pods"


def pool(name: str, accelerator: str | None = "cpu-x86", **spec: Any) -> GPUPool:
    given = {
        "nodeSelector": {"matchLabels": {"pool": name}},
        **({"accelerator": accelerator} if accelerator else {}),
        **spec,
    }
    devices = {"nodes": 2, "accelerators": 16}
    return GPUPool.model_validate({"metadata": {"name": name}, "spec": given, "status": devices})


def spec(target: Any, **pods: Any) -> TuningSpec:
    return TuningSpec(
        target=target, objectives=[Objective(metric="output_tokens_per_s")], measuring=Measuring(timeout_s=300),
        pods=TrialPods(service_account="tuner", **pods),
    )  # fmt: skip


def place(*pools: GPUPool, named: list[str] | None = None) -> Place:
    found = place_of(pools, named or [], lambda _: None, CATALOG)
    assert found is not None
    return found


ENGINE = EngineTarget(engine="openvino", model="/models/tiny.gguf")
VLLM = EngineTarget(engine="vllm", model="hf:org/model")
COMMAND = CommandTarget(command=["train", "--lr={lr}"], image="registry.test/train:1")


def deployment(**changes: Any) -> ServingDeployment:
    choice = {"accelerator": "cpu-x86", "engine": "openvino", "cpuMillicores": 2000, "knobs": {"cacheSizeGb": 1}}
    whole = {
        "model": {"name": "tiny-random-llama", "source": "pvc:weights/tiny.gguf"},
        "explicit": {"choices": [choice]},
        "apiKeySecret": {"name": "key"},
        "priorityClassName": "high",
        "podTemplate": {
            "metadata": {"labels": {"app": "chat"}, "annotations": {"note": "kept"}},
            "spec": {
                "serviceAccountName": "other",
                "automountServiceAccountToken": True,
                "containers": [
                    {
                        "name": "engine",
                        "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}, "readOnlyRootFilesystem": False},
                    },
                    {"name": "side", "image": "side:1"},
                ],
            },
        },
        **changes,
    }
    return ServingDeployment.model_validate(
        {"metadata": {"name": "chat", "namespace": "team", "uid": "u"}, "spec": whole}
    )


def of_deployment(what: ServingDeployment | None = None, knobs: Setting | None = None) -> Rendered:
    target = DeploymentTarget(name="chat", namespace="team")
    setting: Setting = {"cacheSizeGb": 2} if knobs is None else knobs
    return deployment_pod(
        OF, spec(target), place(pool("a")), what or deployment(), setting, CATALOG, IMAGES, "secret-1"
    )


def of_engine(target: EngineTarget = ENGINE, where: Place | None = None, shape: Setting | None = None) -> Rendered:
    where = where or place(pool("a"))
    return engine_pod(OF, "team", target, spec(target), where, {}, shape or {}, CATALOG, IMAGES)


CASES: dict[str, Callable[[], Rendered]] = {
    "command": lambda: command_pod(OF, "team", spec(COMMAND), Place(), "registry.test/train:1", ["train", "--lr=0.1"]),
    "command-gpu": lambda: command_pod(
        OF, "team", spec(COMMAND, pools=["h"], beside_live=True), place(pool("h", "h100-sxm-80gb"), named=["h"]), "i:1", ["a"]
    ),
    "engine-openvino": of_engine,
    "engine-vllm": lambda: of_engine(VLLM, place(pool("h", "h100-sxm-80gb")), {"tensorParallel": 4}),
    "deployment": of_deployment,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    """`python -m tests.unit.tuning.test_trial_pods` writes them anew."""
    assert CASES[name]().manifest == json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_every_trial_pod_keeps_the_restricted_standard(name: str) -> None:
    pod = CASES[name]().manifest["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
        assert not context.get("privileged") and "seccompProfile" not in context
        assert not any("hostPort" in port for port in container.get("ports", []))
    assert not any("hostPath" in volume for volume in pod.get("volumes", []))
    assert pod["serviceAccountName"] == "tuner" and pod["automountServiceAccountToken"] is False
    assert pod["restartPolicy"] == "Never" and pod["activeDeadlineSeconds"] == 660
    assert "priorityClassName" not in pod


@pytest.mark.parametrize("name", CASES)
def test_it_has_its_node_to_itself_and_no_service_finds_it(name: str) -> None:
    manifest = CASES[name]().manifest
    found = manifest["metadata"]["labels"]
    assert attempt_of(found) == OF and labels.DEPLOYMENT not in found and "app" not in found
    required = manifest["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    keys = [term["labelSelector"]["matchExpressions"][0]["key"] for term in required]
    assert keys == [labels.TRIAL] if name == "command-gpu" else [labels.TRIAL, labels.DEPLOYMENT]
    assert all(term["namespaceSelector"] == {} and term["topologyKey"] == "kubernetes.io/hostname" for term in required)


def test_one_name_an_attempt() -> None:
    assert trial_pod_name(OF) == "tune-0a1b2c3d4e5f6071-7-2"
    assert trial_pod_name(Attempt("0a1b2c3d4e5f6071", 7, 3)) != trial_pod_name(OF)
    odd = Attempt("Upper_Case/" * 5, 10_000, 99)
    assert len(trial_pod_name(odd)) <= 63 and trial_pod_name(odd) == trial_pod_name(odd)
    assert len(trial_pod_name(Attempt("7f9c24e5-2b1d-4c59-9d56-2f1f7e0f6f2a", 10_000, 99))) <= 63  # a resource's uid
    assert attempt_of(trial_labels(OF)) == OF
    assert attempt_of({}) is None and attempt_of({**trial_labels(OF), labels.TRIAL: "x"}) is None


def test_arguments_pull_no_variable() -> None:
    rendered = command_pod(OF, "team", spec(COMMAND), Place(), "i", ["sh", "$(KEY)"])
    assert rendered.manifest["spec"]["containers"][0]["command"] == ["sh", "$$(KEY)"]


def test_a_deployments_pod_takes_the_trials_knobs_and_a_key_of_its_own() -> None:
    rendered = of_deployment()
    engine = next(one for one in rendered.manifest["spec"]["containers"] if one["name"] == "engine")
    words = engine["args"]
    assert words[words.index("--cache-size-gb") + 1] == "2"
    env = {one["name"]: one for one in engine["env"]}
    assert env["TRIMTAB_API_KEY"] == {"name": "TRIMTAB_API_KEY", "value": "secret-1"} and rendered.api_key == "secret-1"
    assert rendered.served_name == "tiny-random-llama" and rendered.port == 8000
    assert {"livenessProbe", "startupProbe", "lifecycle"} & set(engine) == set() and "readinessProbe" in engine
    open_one = of_deployment(deployment(apiKeySecret=None))
    assert open_one.api_key == "" and "secret-1" not in json.dumps(open_one.manifest)


def test_knobs_of_the_deployment_that_the_trial_has_not_got_are_not_there() -> None:
    engine = of_deployment(knobs={}).manifest["spec"]["containers"][0]
    assert "--cache-size-gb" not in engine["args"]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"securityContext": {"runAsUser": 0}}, "root"),
        ({"containers": [{"name": "engine", "securityContext": {"runAsNonRoot": False}}]}, "root"),
        ({"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}, "no token"),
    ],
)
def test_what_a_restricted_pod_cannot_be_is_refused(template: dict[str, Any], words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        of_deployment(deployment(podTemplate={"spec": template}))


def test_what_is_no_single_pod_is_refused() -> None:
    roles = {
        role: {"replicas": 1, "choices": [{"accelerator": "h100-sxm-80gb", "engine": "vllm"}]}
        for role in ("prefill", "decode")
    }
    with pytest.raises(Unsupported, match="together"):
        deployed(deployment(explicit=None, roles=roles))
    with pytest.raises(Refused, match="planned"):
        deployed(
            deployment(
                explicit=None, auto={}, workload={"ratePerSecond": 1, "input": {"tokens": 1}, "output": {"tokens": 1}}
            )
        )
    spans = {"accelerator": "h100-sxm-80gb", "engine": "vllm", "tensorParallel": 8, "pipelineParallel": 2}
    with pytest.raises(Unsupported, match="several pods"):
        engine_of(deployed(deployment(explicit={"choices": [spans]})), CATALOG)
    with pytest.raises(InvalidSpec, match="16 accelerators are needed") as caught:
        of_engine(VLLM, place(pool("h", "h100-sxm-80gb")), {"tensorParallel": 16})
    assert caught.value.field == "setting.tensorParallel"  # so it is the setting that cannot be measured


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ("/models/a.gguf", "image:/models/a.gguf"),
        ("pvc:claim/a", "pvc:claim/a"),
        ("org/name", "hf:org/name"),
        ("hf:org/name@v1", "hf:org/name@v1"),
    ],
)
def test_where_a_pod_finds_its_model(model: str, source: str) -> None:
    assert source_of(model) == source


def test_a_model_that_no_pod_finds() -> None:
    for model in ("model.gguf", "https://host/m", "../x"):
        with pytest.raises(InvalidSpec, match="no model by this name"):
            source_of(model)


@pytest.mark.parametrize(
    ("pools", "named", "error", "words"),
    [
        ([pool("a")], ["b"], UnknownName, "b"),
        ([pool("a"), pool("b", "h100-sxm-80gb")], [], InvalidSpec, "different accelerators"),
        ([pool("a", None)], ["a"], Refused, "accelerator"),
        ([pool("a", suspend=True)], [], Refused, "suspended"),
    ],
)
def test_pools_that_cannot_be(pools: list[GPUPool], named: list[str], error: type[TrimtabError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        place_of(pools, named, lambda _: None, CATALOG)
    assert caught.value.field == "pods.pools"


def test_nodes_of_every_pool_that_suits() -> None:
    suits = CATALOG.engine("openvino").why_not_on
    found = place_of([pool("a"), pool("g", "h100-sxm-80gb"), pool("b"), pool("s", suspend=True)], [], suits, CATALOG)
    assert found is not None and found.accelerator is not None and found.accelerator.id == "cpu-x86"
    assert [term["matchExpressions"][0]["values"] for term in found.terms] == [["a"], ["b"]]
    with pytest.raises(Unsupported, match="openvino runs on cpu"):
        place_of([pool("g", "h100-sxm-80gb")], ["g"], suits, CATALOG)
    assert place_of([pool("g", "h100-sxm-80gb")], [], suits, CATALOG) is None
    everywhere = GPUPool.model_validate({"metadata": {"name": "all"}, "spec": {"accelerator": "cpu-x86"}})
    assert place(everywhere).terms == ()  # a term without a requirement would select no node


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for case, made in CASES.items():
        (GOLDEN / f"{case}.json").write_text(json.dumps(made().manifest, indent=1, sort_keys=True) + "\n")
