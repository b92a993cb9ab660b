"""The resources in kubectl's hands: explain is the manual, get shows the columns, scale works."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from operators.crds.__main__ import TARGET
from operators.crds.definitions import SCHEMA_ANNOTATION, all_definitions
from tests.integration.conftest import Kubectl
from tests.unit.crds.bad_objects import GOOD_POOL, GOOD_SERVING, changed
from tests.unit.crds.bad_tuning import GOOD_TUNING

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module", autouse=True)
def definitions(kubectl: Kubectl) -> None:
    """The tree's definitions: those an installed release brought, or applied now."""
    wanted = {
        f"{d['metadata']['name']}": d["metadata"]["annotations"][SCHEMA_ANNOTATION] for d in all_definitions().values()
    }
    found = kubectl.json("get", "crd")["items"]
    present = {d["metadata"]["name"]: d["metadata"].get("annotations", {}).get(SCHEMA_ANNOTATION) for d in found}
    if not wanted.items() <= present.items():
        kubectl("apply", "--server-side", "--force-conflicts", "-f", str(TARGET))
    kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in wanted))


@pytest.fixture(scope="module")
def serving(kubectl: Kubectl) -> Iterator[str]:
    """Its namespace. Suspended, so that an operator in the same cluster starts nothing for it."""
    name = f"crds-{secrets.token_hex(3)}"
    kubectl("create", "namespace", name)
    manifest = changed(GOOD_SERVING, {"metadata.namespace": name, "spec.suspend": True})
    kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("servingdeployment", ["ServingDeployment is an LLM endpoint", "spec", "status", "-required-"]),
        ("sdep.spec", ["model", "explicit", "startupDeadlineSeconds", "10 to 30 minutes"]),
        ("sdep.spec.model.source", ["pvc:CLAIM/PATH", "hf:ORG/REPO[@REVISION]", "Host paths and URLs are not accepted"]),
        ("sdep.spec.explicit.choices", ["tensorParallel", "cpuMillicores", "enum: openvino, vllm, sglang, trtllm-serve"]),
        ("sdep.spec.rollout.preferBetter", ["WhenFree", "without losing a"]),
        ("sdep.spec.slo.ttftMs", ["p99", "99th percentile, ms"]),
        ("sdep.status.choices", ["Why", "largestBlock"]),
        ("tuningjob", ["A TuningJob searches engine and parallelism settings", "spec", "status", "-required-"]),
        ("tj.spec", ["suspend", "budget", "What is optimised", "What is searched"]),
        ("tj.spec.target", ["enum: engine, deployment, command", "Engine from the catalogue"]),
        ("tj.spec.space.parameters", ["enum: int, float, choice", "Least value", "Neighbours in the list are alike"]),
        ("tj.status.gain", ["no-evidence", "Lower end of its interval"]),
        ("gpupool.spec.topologyKeys", ["nvlink-domain", "Well-known labels"]),
        ("gpool.status.facts", ["Where a fact about the pool came from", "missingNodes"]),
    ],
)  # fmt: skip
def test_explain_is_the_manual(kubectl: Kubectl, path: str, words: list[str]) -> None:
    text = " ".join(kubectl("explain", path).split())
    assert [word for word in words if word not in text] == []


def test_get_shows_the_columns(kubectl: Kubectl, serving: str) -> None:
    columns = ["NAME", "DESIRED", "READY", "UPDATED", "ACCELERATOR", "REASON", "AGE"]
    for words in ("sdep", "servingdeployments", "all", "trimtab"):
        assert columns in [line.split() for line in kubectl("get", words, "-n", serving).splitlines()]
    wide = kubectl("get", "sdep", "-n", serving, "-o", "wide").splitlines()
    assert wide[0].split()[6:] == ["MODEL", "REVISION", "URL", "MESSAGE", "AGE"]
    assert "llama-3.1-8b" in wide[1]


def test_get_shows_the_columns_of_tuning_jobs(kubectl: Kubectl, namespace: str) -> None:
    manifest = changed(GOOD_TUNING, {"metadata.namespace": namespace, "spec.suspend": True})
    kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    for words in ("tj", "tuningjobs", "trimtab"):
        lines = [line.split() for line in kubectl("get", words, "-n", namespace).splitlines()]
        assert ["NAME", "STATE", "TRIALS", "BEST", "GAIN", "REASON", "AGE"] in lines
    kubectl("delete", "tj", "search", "-n", namespace, "--timeout=60s")


def test_scale_changes_the_replicas_and_knows_its_limits(kubectl: Kubectl, serving: str) -> None:
    kubectl("scale", "sdep/chat", "--replicas=3", "-n", serving)
    assert kubectl("get", "sdep", "chat", "-n", serving, "-o", "jsonpath={.spec.replicas}") == "3"
    scale: dict[str, Any] = json.loads(
        kubectl("get", "sdep", "chat", "-n", serving, "--subresource=scale", "-o", "json")
    )
    assert scale["spec"]["replicas"] == 3
    refused = kubectl.run("scale", "sdep/chat", "--replicas=1001", "-n", serving, check=False)
    assert refused.returncode != 0
    assert "less than or equal to 1000" in refused.stderr


def test_a_status_write_leaves_the_spec_alone(kubectl: Kubectl, serving: str) -> None:
    before = kubectl("get", "sdep", "chat", "-n", serving, "-o", "jsonpath={.metadata.generation}")
    patch = json.dumps({"status": {"endpoints": [{"url": "http://chat", "servedModel": "m"}]}, "spec": {"replicas": 9}})
    kubectl("patch", "sdep", "chat", "-n", serving, "--type=merge", "--subresource=status", "-p", patch)
    after = kubectl("get", "sdep", "chat", "-n", serving, "-o", "jsonpath={.metadata.generation} {.spec.replicas}")
    assert after.split()[0] == before
    assert after.split()[1] != "9"


def test_a_misspelt_field_is_refused_with_its_path(kubectl: Kubectl, namespace: str) -> None:
    manifest = changed(GOOD_SERVING, {"metadata.namespace": namespace, "spec.explicit.choices[0].tensorParalel": 2})
    told = kubectl.run("create", "-f", "-", stdin=json.dumps(manifest), check=False)
    assert 'unknown field "spec.explicit.choices[0].tensorParalel"' in told.stderr


def test_pools_are_cluster_wide(kubectl: Kubectl) -> None:
    manifest = changed(
        GOOD_POOL, {"metadata.name": f"nothing-{secrets.token_hex(3)}", "spec.nodeSelector.matchLabels": {"no": "node"}}
    )
    kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    try:
        header = kubectl("get", "gpool", manifest["metadata"]["name"]).splitlines()[0].split()
        assert header == ["NAME", "ACCELERATOR", "NIC", "NODES", "USABLE", "FREE", "TOTAL", "READY", "REASON", "AGE"]
    finally:
        kubectl("delete", "gpool", manifest["metadata"]["name"], "--wait=false")
