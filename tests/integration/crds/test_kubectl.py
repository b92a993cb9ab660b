"""The resources in kubectl's hands: explain is the manual, get shows the columns, scale works."""

import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from operators.crds.__main__ import TARGET
from tests.unit.crds.bad_objects import GOOD_POOL, GOOD_SERVING, changed

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on PATH")]


def kubectl(*arguments: str, stdin: str | None = None, fails: bool = False) -> str:
    done = subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


@pytest.fixture(scope="module", autouse=True)
def definitions() -> None:
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(TARGET))
    kubectl("wait", "--for=condition=Established", "crd/servingdeployments.trimtab.dev", "crd/gpupools.trimtab.dev")


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    name = f"crds-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="module")
def serving(namespace: str) -> str:
    """Suspended, so that an operator in the same cluster starts nothing for it."""
    manifest = changed(GOOD_SERVING, {"metadata.namespace": namespace, "spec.suspend": True})
    kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    return namespace


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
        ("gpupool.spec.topologyKeys", ["nvlink-domain", "Well-known labels"]),
        ("gpool.status.facts", ["Where a fact about the pool came from", "missingNodes"]),
    ],
)  # fmt: skip
def test_explain_is_the_manual(path: str, words: list[str]) -> None:
    text = " ".join(kubectl("explain", path).split())
    assert [word for word in words if word not in text] == []


def test_get_shows_the_columns(serving: str) -> None:
    for words in ("sdep", "servingdeployments", "all", "trimtab"):
        header = kubectl("get", words, "-n", serving).splitlines()[0].split()
        assert header == ["NAME", "DESIRED", "READY", "UPDATED", "ACCELERATOR", "REASON", "AGE"]
    wide = kubectl("get", "sdep", "-n", serving, "-o", "wide").splitlines()
    assert wide[0].split()[6:] == ["MODEL", "REVISION", "URL", "MESSAGE", "AGE"]
    assert "llama-3.1-8b" in wide[1]


def test_scale_changes_the_replicas_and_knows_its_limits(serving: str) -> None:
    kubectl("scale", "sdep/chat", "--replicas=3", "-n", serving)
    assert kubectl("get", "sdep", "chat", "-n", serving, "-o", "jsonpath={.spec.replicas}") == "3"
    scale: dict[str, Any] = json.loads(
        kubectl("get", "sdep", "chat", "-n", serving, "--subresource=scale", "-o", "json")
    )
    assert scale["spec"]["replicas"] == 3
    assert "less than or equal to 1000" in kubectl("scale", "sdep/chat", "--replicas=1001", "-n", serving, fails=True)


def test_a_status_write_leaves_the_spec_alone(serving: str) -> None:
    before = kubectl("get", "sdep", "chat", "-n", serving, "-o", "jsonpath={.metadata.generation}")
    patch = json.dumps({"status": {"endpoints": [{"url": "http://chat", "servedModel": "m"}]}, "spec": {"replicas": 9}})
    kubectl("patch", "sdep", "chat", "-n", serving, "--type=merge", "--subresource=status", "-p", patch)
    after = kubectl("get", "sdep", "chat", "-n", serving, "-o", "jsonpath={.metadata.generation} {.spec.replicas}")
    assert after.split()[0] == before
    assert after.split()[1] != "9"


def test_a_misspelt_field_is_refused_with_its_path(namespace: str) -> None:
    manifest = changed(GOOD_SERVING, {"metadata.namespace": namespace, "spec.explicit.choices[0].tensorParalel": 2})
    told = kubectl("create", "-f", "-", stdin=json.dumps(manifest), fails=True)
    assert 'unknown field "spec.explicit.choices[0].tensorParalel"' in told


def test_pools_are_cluster_wide() -> None:
    manifest = changed(
        GOOD_POOL, {"metadata.name": f"nothing-{uuid.uuid4().hex[:8]}", "spec.nodeSelector.matchLabels": {"no": "node"}}
    )
    kubectl("create", "-f", "-", stdin=json.dumps(manifest))
    try:
        header = kubectl("get", "gpool", manifest["metadata"]["name"]).splitlines()[0].split()
        assert header == ["NAME", "ACCELERATOR", "NIC", "NODES", "USABLE", "FREE", "TOTAL", "READY", "REASON", "AGE"]
    finally:
        kubectl("delete", "gpool", manifest["metadata"]["name"], "--wait=false")
