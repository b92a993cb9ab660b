"""Every rule of the definitions against a real API server: what is refused, at which field, in which words."""

import json
import secrets
import ssl
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.unit.crds.bad_objects import BAD, GOOD, GOOD_SERVING, UNKNOWN_FIELDS, Bad, changed
from tests.unit.crds.bad_tuning import (
    BAD_CHANGES,
    BAD_TUNING,
    BEFORE_CHANGES,
    GOOD_CHANGES,
    GOOD_TUNING,
    GOOD_TUNINGS,
    UNKNOWN_TUNING_FIELDS,
)

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[3]
_TRIES = 20


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
    query = {"dryRun": "All", "fieldValidation": validation}
    return server.post(path_of(manifest), params=query, json=manifest)


def path_of(manifest: dict[str, Any]) -> str:
    """Of its collection."""
    namespace = manifest["metadata"].get("namespace")
    scope = f"namespaces/{namespace}/" if namespace else ""
    return f"/apis/trimtab.dev/v1alpha1/{scope}{manifest['kind'].lower()}s"


@pytest.mark.parametrize("bad", [*BAD, *BAD_TUNING], ids=lambda bad: bad.name)
def test_a_bad_object_is_refused_at_its_field(server: httpx.Client, bad: Bad) -> None:
    answer = create(server, bad.manifest)
    assert answer.status_code == 422, answer.text
    causes = answer.json()["details"]["causes"]
    told = [cause for cause in causes if bad.words in cause["message"]]
    assert told, causes
    assert bad.field in {cause["field"].removeprefix("<nil>") for cause in told}


@pytest.mark.parametrize(
    ("good", "changes", "field"),
    [(GOOD_SERVING, *item) for item in UNKNOWN_FIELDS] + [(GOOD_TUNING, *item) for item in UNKNOWN_TUNING_FIELDS],
    ids=[field for _, field in (*UNKNOWN_FIELDS, *UNKNOWN_TUNING_FIELDS)],
)
def test_an_unknown_field_is_refused(
    server: httpx.Client, good: dict[str, Any], changes: dict[str, Any], field: str
) -> None:
    answer = create(server, changed(good, changes))
    assert answer.status_code == 400
    assert f'unknown field "{field}"' in answer.json()["message"]


@pytest.mark.parametrize(
    ("good", "changes"),
    [(GOOD_SERVING, changes) for _, changes in GOOD] + [(GOOD_TUNING, changes) for _, changes in GOOD_TUNINGS],
    ids=[name for name, _ in GOOD] + [f"tuning: {name}" for name, _ in GOOD_TUNINGS],
)
def test_a_good_object_is_taken_as_written(server: httpx.Client, good: dict[str, Any], changes: dict[str, Any]) -> None:
    manifest = changed(good, changes)
    answer = create(server, manifest)
    assert answer.status_code == 201, answer.text
    assert _within(manifest["spec"], answer.json()["spec"])


def test_absent_parts_come_back_spelt_out(server: httpx.Client) -> None:
    spec = create(server, GOOD_SERVING).json()["spec"]
    assert spec["replicas"] == 1
    assert spec["rollout"] == {"maxSurge": 1, "maxUnavailable": 0, "drainSeconds": 120, "preferBetter": "Never"}
    assert spec["explicit"]["choices"][0]["tensorParallel"] == 1
    assert "status" not in create(server, GOOD_SERVING).json()


def test_the_load_of_a_tuning_job_comes_back_spelt_out(server: httpx.Client) -> None:
    spec = create(server, GOOD_TUNING).json()["spec"]
    assert (spec["load"]["arrivals"], spec["load"]["concurrency"]) == ("closed", 8)
    assert spec["budget"] == {"trials": 40} and spec["suspend"] is False


@pytest.fixture(scope="module")
def stored(server: httpx.Client) -> Iterator[dict[str, Any]]:
    """A TuningJob that exists, suspended, so that no operator begins it."""
    name = f"crds-{secrets.token_hex(3)}"
    server.post("/api/v1/namespaces", json={"metadata": {"name": name}}).raise_for_status()
    manifest = changed(GOOD_TUNING, {**BEFORE_CHANGES, "metadata.namespace": name, "spec.suspend": True})
    answer = server.post(path_of(manifest), json=manifest)
    assert answer.is_success, answer.text
    yield manifest
    server.delete(f"/api/v1/namespaces/{name}")


def change(server: httpx.Client, stored: dict[str, Any], changes: dict[str, Any]) -> httpx.Response:
    """A dry run with the changes made to what is stored; again where an operator wrote its status in between."""
    path = f"{path_of(stored)}/{stored['metadata']['name']}"
    for _ in range(_TRIES):
        answer = server.put(path, params={"dryRun": "All"}, json=changed(server.get(path).json(), changes))
        if answer.status_code != httpx.codes.CONFLICT:
            break
    return answer


@pytest.mark.parametrize(("changes", "field", "words"), BAD_CHANGES, ids=[str(item[0])[:50] for item in BAD_CHANGES])
def test_what_a_job_measures_stays_as_it_was_created(
    server: httpx.Client, stored: dict[str, Any], changes: dict[str, Any], field: str, words: str
) -> None:
    answer = change(server, stored, changes)
    assert answer.status_code == 422, answer.text
    told = [cause for cause in answer.json()["details"]["causes"] if words in cause["message"]]
    assert field in {cause["field"] for cause in told}, answer.text


@pytest.mark.parametrize("changes", GOOD_CHANGES, ids=str)
def test_a_job_may_be_suspended_and_extended(
    server: httpx.Client, stored: dict[str, Any], changes: dict[str, Any]
) -> None:
    answer = change(server, stored, changes)
    assert answer.is_success, answer.text


def test_the_largest_space_stays_within_the_budget_of_the_rules(server: httpx.Client) -> None:
    names = [f"p{number:062}" for number in range(64)]
    when = [{"parameter": names[0], "values": list(range(64))} for _ in range(8)]
    space = {
        "parameters": [{"kind": "choice", "name": name, "values": list(range(256)), "when": when} for name in names],
        "rules": [{"expression": "x" * 512, "message": "m" * 512} for _ in range(64)],
        "fixed": {f"f{number}": "x" * 512 for number in range(64)},
    }
    answer = create(server, changed(GOOD_TUNING, {"spec.space": space}))
    assert answer.status_code == 201, answer.text


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
