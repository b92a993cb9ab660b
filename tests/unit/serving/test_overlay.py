"""podTemplate: what it may change, what it may not, and that nothing is lost in the merge."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.model.cluster import PoolToleration
from operators.serving.overlay import merge_pod
from operators.serving.overlay_check import check_template
from operators.serving.render import pod, replica_template
from operators.serving.validate import validate
from tests.unit.serving.cases import CATALOG, SETTINGS, deployment, one_choice

GPU = frozenset({"nvidia.com/gpu"})


def engine(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "engine", **fields}]}}


def context(**fields: Any) -> dict[str, Any]:
    return engine(securityContext=fields)


def rendered(template: dict[str, Any]) -> dict[str, Any]:
    made = one_choice(
        "llama-3.1-70b",
        "hf:meta-llama/Llama-3.1-70B",
        {"accelerator": "h100-sxm-80gb", "engine": "vllm", "tensorParallel": 4},
        podTemplate=template,
    )
    assert [str(error) for error in validate(made, CATALOG)] == []
    return pod(replica_template(made, 0, CATALOG, SETTINGS), made, 0, 0, "n", "p")


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    return next(item for item in manifest["spec"]["containers"] if item["name"] == "engine")


NOTES = {
    "sidecar.istio.io/inject": "false",
    "container.apparmor.security.beta.kubernetes.io/engine": "runtime/default",
}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"spec": {"affinity": {}}}, "spec.affinity", "pools"),
    ({"spec": {"nodeSelector": {"a": "b"}}}, "spec.nodeSelector", "pools"),
    ({"spec": {"nodeName": "n"}}, "spec.nodeName", "pools"),
    ({"spec": {"schedulerName": "x"}}, "spec.schedulerName", "pools"),
    ({"spec": {"hostNetwork": True}}, "spec.hostNetwork", "host namespaces"),
    ({"spec": {"hostPID": True}}, "spec.hostPID", "host namespaces"),
    ({"spec": {"hostIPC": True}}, "spec.hostIPC", "shm"),
    ({"spec": {"terminationGracePeriodSeconds": 1}}, "spec.terminationGracePeriodSeconds", "drainSeconds"),
    ({"spec": {"priorityClassName": "x"}}, "spec.priorityClassName", "spec.priorityClassName"),
    ({"spec": {"restartPolicy": "Never"}}, "spec.restartPolicy", "controller"),
    ({"spec": {"tolerationz": []}}, "spec.tolerationz", "tolerations"),
    ({"metadata": {"name": "x"}}, "metadata.name", "controller"),
    ({"metadata": {"ownerReferences": []}}, "metadata.ownerReferences", "controller"),
    ({"metadata": {"labels": {"trimtab.dev/leader": "true"}}}, "metadata.labels.trimtab.dev/leader", "your own"),
    ({"metadata": {"annotations": {"trimtab.dev/units": "0"}}}, "metadata.annotations.trimtab.dev/units", "your own"),
    (
        {"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/engine": "unconfined"}}},
        "metadata.annotations.container.apparmor.security.beta.kubernetes.io/engine",
        "securityContext.appArmorProfile",
    ),
    (
        {"metadata": {"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}}},
        "metadata.annotations.seccomp.security.alpha.kubernetes.io/pod",
        "securityContext.seccompProfile",
    ),
    (
        {"metadata": {"annotations": {"container.seccomp.security.alpha.kubernetes.io/engine": "unconfined"}}},
        "metadata.annotations.container.seccomp.security.alpha.kubernetes.io/engine",
        "securityContext.seccompProfile",
    ),
    ({"metadata": {"labels": {"app.kubernetes.io/managed-by": "x"}}}, "metadata.labels", "your own"),
    ({"kind": "Pod"}, "kind", "metadata, spec"),
    (engine(image="x"), "spec.containers[0].image", "choices[].image"),
    (engine(command=["sh"]), "spec.containers[0].command", "knobs"),
    (engine(args=["--x"]), "spec.containers[0].args", "knobs"),
    (engine(ports=[{"containerPort": 1}]), "spec.containers[0].ports", "catalogue"),
    (engine(startupProbe={}), "spec.containers[0].startupProbe", "startupDeadlineSeconds"),
    (engine(readinessProbe={}), "spec.containers[0].readinessProbe", "own answer"),
    (engine(livenessProbe={}), "spec.containers[0].livenessProbe", "own answer"),
    (engine(lifecycle={}), "spec.containers[0].lifecycle", "drainSeconds"),
    (engine(resources={"limits": {"nvidia.com/gpu": "1"}}), "resources.limits.nvidia.com/gpu", "acceleratorsPerPod"),
    (
        {"spec": {"containers": [{"name": "s", "image": "i", "resources": {"requests": {"nvidia.com/gpu": "4"}}}]}},
        "spec.containers[0].resources.requests.nvidia.com/gpu",
        "a workload of its own",
    ),
    (
        {"spec": {"initContainers": [{"name": "s", "image": "i", "resources": {"limits": {"nvidia.com/gpu": 4}}}]}},
        "spec.initContainers[0].resources.limits.nvidia.com/gpu",
        "a workload of its own",
    ),
    (engine(env=[{"name": "HF_HOME", "value": "/x"}]), "spec.containers[0].env[0].name", "HF_HOME"),
    (engine(volumeMounts=[{"name": "mine", "mountPath": "/model"}]), "volumeMounts[0]", "spec.model"),
    (engine(volumeMounts=[{"name": "cache", "mountPath": "/elsewhere"}]), "volumeMounts[0]", "spec.model"),
    (engine(env="x"), "spec.containers[0].env", "list"),
    (engine(env=[{"value": "x"}]), "spec.containers[0].env[0]", "name"),
    (engine(env=[{"name": "A"}, {"name": "A"}]), "spec.containers[0].env[1].name", "twice"),
    (engine(env=None), "spec.containers[0].env", "null"),
    (engine(resources=[]), "spec.containers[0].resources", "object"),
    ({"spec": None}, "spec", "null"),
    ({"spec": {"containers": [{"name": "side"}]}}, "spec.containers[0]", "image"),
    ({"spec": {"initContainers": [{"name": "engine", "image": "x"}]}}, "initContainers[0].name", "taken"),
    ({"spec": {"volumes": [{"name": "model", "emptyDir": {}}]}}, "spec.volumes[0]", "spec.model"),
    ({"spec": {"volumes": [{"name": "shm", "configMap": {"name": "x"}}]}}, "spec.volumes[0]", "emptyDir"),
    ({"spec": {"volumes": [{"name": "x", "hostPath": {"path": "/"}}]}}, "volumes[0].hostPath", "rights"),
    ({"spec": {"volumes": [{"name": "x", "nfs": {}}]}}, "volumes[0].nfs", "persistentVolumeClaim"),
    ({"spec": {"volumes": [{"$patch": "delete", "name": "x"}]}}, "volumes[0].$patch", "directives"),
    (context(privileged=True), "securityContext.privileged", "IPC_LOCK"),
    (context(allowPrivilegeEscalation=True), "securityContext.allowPrivilegeEscalation", "false"),
    (context(capabilities={"add": ["SYS_ADMIN"]}), "capabilities.add", "IPC_LOCK"),
    (context(capabilities={"add": "ALL"}), "capabilities.add", "IPC_LOCK"),
    (context(seccompProfile={"type": "Unconfined"}), "seccompProfile.type", "RuntimeDefault"),
    (context(procMount="Unmasked"), "procMount", "rights"),
    (context(seLinuxOptions={"type": "spc_t"}), "seLinuxOptions", "container_t"),
    ({"spec": {"securityContext": {"sysctls": [{"name": "a", "value": "b"}]}}}, "sysctls", "rights"),
    (
        {"spec": {"containers": [{"name": "s", "image": "i", "securityContext": {"privileged": True}}]}},
        "spec.containers[0].securityContext.privileged",
        "rights",
    ),
    (
        {"spec": {"initContainers": [{"name": "s", "image": "i", "ports": [{"containerPort": 1, "hostPort": 1}]}]}},
        "spec.initContainers[0].ports[0]",
        "Service",
    ),
]


@pytest.mark.parametrize(
    ("template", "field", "word"), REFUSED, ids=[f"{index}-{item[1]}" for index, item in enumerate(REFUSED)]
)
def test_refused_with_the_field_and_what_to_use_instead(template: dict[str, Any], field: str, word: str) -> None:
    found = check_template(template, accelerator_resources=GPU)
    assert len(found) == 1, [str(error) for error in found]
    assert (found[0].field or "").startswith("spec.podTemplate.")
    assert field in (found[0].field or "")
    assert word in str(found[0])


@pytest.mark.parametrize("name", ["engine", "side"])
def test_an_accelerator_that_no_choice_names_is_refused_too(name: str) -> None:
    own = {} if name == "engine" else {"image": "i"}
    made = deployment(
        podTemplate={"spec": {"containers": [{"name": name, **own, "resources": {"limits": {"nvidia.com/gpu": "4"}}}]}}
    )
    (error,) = validate(made, CATALOG)
    assert error.field == "spec.podTemplate.spec.containers[0].resources.limits.nvidia.com/gpu"


@pytest.mark.parametrize(
    ("spec", "millicores"),
    [
        ({}, 2000),
        ({"containers": [{"name": "side", "image": "i", "resources": {"requests": {"cpu": "1.5"}}}]}, 3500),
        ({"containers": [{"name": "side", "image": "i", "resources": {"limits": {"cpu": 1}}}]}, 3000),
        ({"initContainers": [{"name": "fetch", "image": "i", "resources": {"requests": {"cpu": 8}}}]}, 8000),
        (
            {
                "initContainers": [
                    {"name": "s", "image": "i", "restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}}
                ]
            },
            2500,
        ),
    ],
)
def test_placement_counts_the_cpu_of_every_container(spec: dict[str, Any], millicores: int) -> None:
    made = one_choice(
        "tiny-random-llama",
        "image:/models/tiny.gguf",
        {"accelerator": "cpu-x86", "engine": "openvino", "cpuMillicores": 2000},
        podTemplate={"spec": spec},
    )
    assert [str(error) for error in validate(made, CATALOG)] == []
    template = replica_template(made, 0, CATALOG, SETTINGS)
    assert template.units_per_pod == millicores
    manifest = pod(template, made, 0, 0, "n", "p")
    assert container(manifest)["resources"]["requests"]["cpu"] == "2000m"


def test_nesting_that_no_pod_has_is_refused_and_not_walked() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    found = check_template({"spec": {"securityContext": deep}}, accelerator_resources=GPU)
    assert [error.message for error in found] == ["nested too deeply"]


@pytest.mark.parametrize(
    "template",
    [{"spec": {f"field{index}": 1 for index in range(5000)}}, engine(env=[None] * 5000)],
    ids=["map", "list"],
)
def test_a_huge_template_gives_the_first_errors_only(template: dict[str, Any]) -> None:
    assert 10 <= len(check_template(template, accelerator_resources=GPU)) <= 25


def test_secrets_environment_and_rdma_reach_the_engine() -> None:
    template = {
        "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [
                {
                    "name": "engine",
                    "env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "t"}}}],
                    "resources": {"requests": {"cpu": "16"}, "limits": {"rdma/ib": "8"}},
                    "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
                }
            ],
        }
    }
    made = rendered(template)
    assert made["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    assert {item["name"] for item in container(made)["env"]} >= {"HOME", "HF_HOME", "HF_TOKEN"}
    assert container(made)["resources"] == {
        "requests": {"nvidia.com/gpu": "4", "cpu": "16"},
        "limits": {"nvidia.com/gpu": "4", "rdma/ib": "8"},
    }
    assert container(made)["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert container(made)["securityContext"]["allowPrivilegeEscalation"] is False


def test_shared_memory_can_be_resized_and_stays_memory() -> None:
    made = rendered({"spec": {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "64Gi"}}]}})
    volume = next(item for item in made["spec"]["volumes"] if item["name"] == "shm")
    assert volume == {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}}


def test_own_volume_with_mount_and_sidecar() -> None:
    template = {
        "metadata": {"labels": {"team": "a"}, "annotations": dict(NOTES)},
        "spec": {
            "volumes": [{"name": "certs", "secret": {"secretName": "ca"}}],
            "containers": [
                {"name": "engine", "volumeMounts": [{"name": "certs", "mountPath": "/certs"}]},
                {"name": "logs", "image": "registry.example/logs:1"},
            ],
        },
    }
    made = rendered(template)
    assert {"name": "certs", "mountPath": "/certs"} in container(made)["volumeMounts"]
    assert [item["name"] for item in made["spec"]["containers"]] == ["engine", "logs"]
    assert made["metadata"]["labels"]["team"] == "a"
    assert made["metadata"]["labels"]["trimtab.dev/deployment"] == "chat"


def test_security_can_be_relaxed_to_baseline_by_name_or_by_null() -> None:
    template = {"spec": {"securityContext": {"runAsNonRoot": False, "runAsUser": 0, "fsGroup": None}}}
    made = rendered(template)["spec"]["securityContext"]
    assert made["runAsUser"] == 0 and made["runAsNonRoot"] is False and "fsGroup" not in made
    assert made["seccompProfile"] == {"type": "RuntimeDefault"}


def test_tolerations_add_to_those_of_the_pool() -> None:
    mine = {"key": "team", "operator": "Exists"}
    made = deployment(podTemplate={"spec": {"tolerations": [mine]}})
    template = replica_template(made, 0, CATALOG, SETTINGS)
    manifest = pod(template, made, 0, 0, "n", "p", [PoolToleration(key="pool"), PoolToleration(key="team")])
    assert manifest["spec"]["tolerations"] == [{"key": "pool", "operator": "Exists"}, mine]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=20,
)
FIELDS = [
    "containers",
    "volumes",
    "securityContext",
    "tolerations",
    "affinity",
    "env",
    "name",
    "hostPath",
    "privileged",
]
templates = st.dictionaries(
    st.sampled_from(["metadata", "spec", "status", "$patch"]),
    st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=4) | json_values,
    max_size=3,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(templates)
def test_any_json_is_judged_and_what_passes_merges(template: dict[str, Any]) -> None:
    if check_template(template, accelerator_resources=GPU):
        return
    base = {"metadata": {"labels": {}, "annotations": {}}, "spec": {"containers": [{"name": "engine", "env": []}]}}
    before = copy.deepcopy(base)
    merged = merge_pod(base, template)
    assert base == before
    assert any(item["name"] == "engine" for item in merged["spec"]["containers"])


def test_merging_changes_neither_side() -> None:
    base = {"spec": {"containers": [{"name": "engine", "env": [{"name": "A", "value": "1"}]}]}}
    patch = {"spec": {"containers": [{"name": "engine", "env": [{"name": "A", "valueFrom": {"x": {}}}]}]}}
    kept = copy.deepcopy((base, patch))
    merged = merge_pod(base, patch)
    assert (base, patch) == kept
    assert merged["spec"]["containers"][0]["env"] == [{"name": "A", "valueFrom": {"x": {}}}]
