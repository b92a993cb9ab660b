"""Every rule of the definitions against a real API server: what is refused, at which field, in which words."""

import json
import ssl
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.unit.crds.bad_objects import BAD, GOOD, GOOD_SERVING, UNKNOWN_FIELDS, Bad, changed

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def server(cluster_env: dict[str, str]) -> Iterator[httpx.Client]:
    """The cluster behind KUBECONFIG, with our definitions applied."""
    config = yaml.safe_load(Path(cluster_env["KUBECONFIG"]).read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    trust = ssl.create_default_context(cadata=b64decode(cluster["certificate-authority-data"]).decode())
    headers = {"Authorization": f"Bearer {user['token']}"}
    with httpx.Client(base_url=cluster["server"], headers=headers, verify=trust, timeout=30) as client:
        for file in sorted((ROOT / "helm" / "files" / "crds").glob("*.yaml")):
            definition = yaml.safe_load(file.read_text())
            answer = client.patch(
                f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition['metadata']['name']}",
                params={"fieldManager": "kubectl", "force": "true"},
                headers={"Content-Type": "application/apply-patch+yaml"},
                content=json.dumps(definition),
            )
            assert answer.is_success, answer.text
            conditions = answer.json()["status"].get("conditions", [])
            # Words the API server has about a schema that is not structural.
            assert not [c for c in conditions if c["type"] == "NonStructuralSchema" and c["status"] == "True"]
        yield client


def create(server: httpx.Client, manifest: dict[str, Any], validation: str = "Strict") -> httpx.Response:
    """A dry run: nothing is stored."""
    namespace = manifest["metadata"].get("namespace")
    scope = f"namespaces/{namespace}/servingdeployments" if namespace else "gpupools"
    query = {"dryRun": "All", "fieldValidation": validation}
    return server.post(f"/apis/trimtab.dev/v1alpha1/{scope}", params=query, json=manifest)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_object_is_refused_at_its_field(server: httpx.Client, bad: Bad) -> None:
    answer = create(server, bad.manifest)
    assert answer.status_code == 422, answer.text
    causes = answer.json()["details"]["causes"]
    told = [cause for cause in causes if bad.words in cause["message"]]
    assert told, causes
    assert bad.field in {cause["field"].removeprefix("<nil>") for cause in told}


@pytest.mark.parametrize(("changes", "field"), UNKNOWN_FIELDS, ids=[field for _, field in UNKNOWN_FIELDS])
def test_an_unknown_field_is_refused(server: httpx.Client, changes: dict[str, Any], field: str) -> None:
    answer = create(server, changed(GOOD_SERVING, changes))
    assert answer.status_code == 400
    assert f'unknown field "{field}"' in answer.json()["message"]


@pytest.mark.parametrize("changes", [changes for _, changes in GOOD], ids=[name for name, _ in GOOD])
def test_a_good_object_is_taken_as_written(server: httpx.Client, changes: dict[str, Any]) -> None:
    manifest = changed(GOOD_SERVING, changes)
    answer = create(server, manifest)
    assert answer.status_code == 201, answer.text
    assert _within(manifest["spec"], answer.json()["spec"])


def test_absent_parts_come_back_spelt_out(server: httpx.Client) -> None:
    spec = create(server, GOOD_SERVING).json()["spec"]
    assert spec["replicas"] == 1
    assert spec["rollout"] == {"maxSurge": 1, "maxUnavailable": 0, "drainSeconds": 120, "preferBetter": "Never"}
    assert spec["explicit"]["choices"][0]["tensorParallel"] == 1
    assert "status" not in create(server, GOOD_SERVING).json()


def test_the_largest_object_stays_within_the_budget_of_the_rules(server: httpx.Client) -> None:
    choice = {"engine": "vllm", "pools": [f"pool-{n:058}" for n in range(32)], "quantization": "q" * 63}
    choices = [{**choice, "accelerator": f"l40s-{n:058}", "image": "i" * 512} for n in range(16)]
    answer = create(server, changed(GOOD_SERVING, {"spec.explicit.choices": choices}))
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize(("variables", "status"), [(1_000, 201), (4_000, 413)], ids=["1 MB", "4 MB"])
def test_a_large_object_is_stored_whole_or_refused(server: httpx.Client, variables: int, status: int) -> None:
    environment = [{"name": f"VARIABLE_{n}", "value": "x" * 1000} for n in range(variables)]
    template = {"spec": {"containers": [{"name": "engine", "env": environment}]}}
    answer = create(server, changed(GOOD_SERVING, {"spec.podTemplate": template}))
    assert answer.status_code == status, answer.text[:500]
    if status == 201:
        assert answer.json()["spec"]["podTemplate"] == template


def _within(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and _within(value, whole[key]) for key, value in part.items()
        )
    if isinstance(part, list):
        return isinstance(whole, list) and len(part) == len(whole) and all(map(_within, part, whole))
    return bool(part == whole)
