"""A real API server takes every golden manifest: schema, admission, name and label rules."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator

import pytest

from tests.unit.serving.cases import GOLDENS, Golden

pytestmark = pytest.mark.cluster


def kubectl(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    name = f"golden-{uuid.uuid4().hex[:8]}"
    made = kubectl("create", "namespace", name)
    assert made.returncode == 0, made.stderr
    # Restricted: what is rendered without a podTemplate passes the strictest Pod Security Standard.
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.mark.parametrize("case", GOLDENS, ids=lambda case: case.name)
def test_dry_run_on_the_server(case: Golden, namespace: str) -> None:
    # What a gateway reads is left out: the development cluster has no definitions of it.
    objects = [
        item for item in case.objects() if not item["apiVersion"].partition("/")[0].endswith("networking.k8s.io")
    ]
    objects = [item for item in objects if item["kind"] != "InferenceObjective"]
    for item in objects:
        item["metadata"]["namespace"] = namespace
    relaxed = any("IPC_LOCK" in json.dumps(item) for item in objects)
    level = "privileged" if relaxed else "restricted"  # IPC_LOCK is the one thing beyond restricted
    kubectl("label", "namespace", namespace, f"pod-security.kubernetes.io/enforce={level}", "--overwrite")
    content = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    done = kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=content)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("server dry run") == len(objects)
    assert "Warning" not in done.stderr
