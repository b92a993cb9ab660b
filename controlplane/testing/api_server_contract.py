"""What our runtime relies on in an API server; the fake and a real one must both pass.

Derive a test class and give it two fixtures: `client`, and `namespace`, the name of an empty one. `probes` must be
served: a namespaced custom resource with a status subresource and a schema that accepts anything.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from controlplane.kube import (
    CONFIG_MAPS,
    AlreadyExists,
    Conflict,
    KubeClient,
    KubeError,
    NotFound,
    Resource,
)

PROBES = Resource("contract.trimtab.dev", "v1", "contractprobes", "ContractProbe")

PROBES_DEFINITION: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": f"{PROBES.plural}.{PROBES.group}"},
    "spec": {
        "group": PROBES.group,
        "scope": "Namespaced",
        "names": {"kind": PROBES.kind, "plural": PROBES.plural, "singular": "contractprobe"},
        "versions": [
            {
                "name": PROBES.version,
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
_WATCH_LIMIT_S = 20.0


def _map(namespace: str, name: str, value: str, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"v": value}}


def _probe(namespace: str, **fields: Any) -> dict[str, Any]:
    metadata = {"name": "p", "namespace": namespace}
    return {"apiVersion": PROBES.api_version, "kind": PROBES.kind, "metadata": metadata, **fields}


def _version(obj: dict[str, Any]) -> str:
    return str(obj["metadata"]["resourceVersion"])


async def _events(stream: Any, count: int) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    while len(found) < count:
        lines = await stream.next_batch(_WATCH_LIMIT_S)
        assert lines is not None, f"the watch ended after {found}"
        events = [json.loads(line) for line in lines]
        found += [(e["type"], e["object"]["metadata"]["name"]) for e in events if e["type"] != "BOOKMARK"]
    return found


class ApiServerContract:
    """The behaviours, one test each."""

    async def test_a_created_object_gets_its_identity(self, client: KubeClient, namespace: str) -> None:
        created = json.loads(await client.create(CONFIG_MAPS, _map(namespace, "a", "1"), namespace))
        assert created["metadata"]["uid"]
        assert int(_version(created)) > 0
        assert created["metadata"]["creationTimestamp"].endswith("Z")
        with pytest.raises(AlreadyExists):
            await client.create(CONFIG_MAPS, _map(namespace, "a", "1"), namespace)
        assert json.loads(await client.get(CONFIG_MAPS, "a", namespace)) == created

    async def test_a_write_by_an_old_version_is_refused(self, client: KubeClient, namespace: str) -> None:
        first = json.loads(await client.create(CONFIG_MAPS, _map(namespace, "a", "1"), namespace))
        second = json.loads(await client.replace(CONFIG_MAPS, {**first, "data": {"v": "2"}}, "a", namespace))
        assert int(_version(second)) > int(_version(first))
        with pytest.raises(Conflict):
            await client.replace(CONFIG_MAPS, {**first, "data": {"v": "3"}}, "a", namespace)
        patch = {"metadata": {"resourceVersion": _version(first)}, "data": {"v": "3"}}
        with pytest.raises(Conflict):
            await client.patch(CONFIG_MAPS, patch, "a", namespace)

    async def test_a_write_that_changes_nothing_makes_no_version(self, client: KubeClient, namespace: str) -> None:
        body = _map(namespace, "a", "1")
        first = json.loads(await client.apply(CONFIG_MAPS, body, "a", namespace, field_manager="m"))
        again = json.loads(await client.apply(CONFIG_MAPS, body, "a", namespace, field_manager="m"))
        assert _version(again) == _version(first)

    async def test_apply_owns_replaces_and_removes(self, client: KubeClient, namespace: str) -> None:
        one = _map(namespace, "a", "1", mine="x")
        await client.apply(CONFIG_MAPS, one, "a", namespace, field_manager="one")
        two = {**_map(namespace, "a", "1", theirs="y"), "data": {"w": "2"}}
        await client.apply(CONFIG_MAPS, two, "a", namespace, field_manager="two")
        with pytest.raises(Conflict):
            taken = {**two, "data": {"v": "9"}}
            await client.apply(CONFIG_MAPS, taken, "a", namespace, field_manager="two", force=False)
        del one["metadata"]["labels"]
        result = json.loads(await client.apply(CONFIG_MAPS, one, "a", namespace, field_manager="one"))
        assert result["metadata"]["labels"] == {"theirs": "y"}
        assert result["data"] == {"v": "1", "w": "2"}

    async def test_a_delete_by_another_uid_is_refused(self, client: KubeClient, namespace: str) -> None:
        created = json.loads(await client.create(CONFIG_MAPS, _map(namespace, "a", "1"), namespace))
        with pytest.raises(Conflict):
            await client.delete(CONFIG_MAPS, "a", namespace, uid="00000000-0000-0000-0000-00000000dead")
        await client.delete(CONFIG_MAPS, "a", namespace, uid=created["metadata"]["uid"])
        with pytest.raises(NotFound):
            await client.delete(CONFIG_MAPS, "a", namespace)

    async def test_a_finalizer_holds_an_object_back(self, client: KubeClient, namespace: str) -> None:
        body = _map(namespace, "a", "1")
        body["metadata"]["finalizers"] = ["trimtab.dev/contract"]
        await client.create(CONFIG_MAPS, body, namespace)
        await client.delete(CONFIG_MAPS, "a", namespace)
        live = json.loads(await client.get(CONFIG_MAPS, "a", namespace))
        assert live["metadata"]["deletionTimestamp"]
        await client.patch(CONFIG_MAPS, {"metadata": {"finalizers": None}}, "a", namespace)
        with pytest.raises(NotFound):
            await client.get(CONFIG_MAPS, "a", namespace)

    async def test_spec_and_status_are_written_apart(self, client: KubeClient, namespace: str) -> None:
        created = json.loads(await client.create(PROBES, _probe(namespace, spec={"a": 1}, status={"b": 1}), namespace))
        assert created["metadata"]["generation"] == 1
        assert "status" not in created
        with_status = _probe(namespace, spec={"a": 2}, status={"b": 2})
        after = json.loads(
            await client.apply(PROBES, with_status, "p", namespace, field_manager="m", subresource="status", force=True)
        )
        assert (after["spec"], after["status"], after["metadata"]["generation"]) == ({"a": 1}, {"b": 2}, 1)
        after = json.loads(await client.patch(PROBES, {"spec": {"a": 3}, "status": {"b": 3}}, "p", namespace))
        assert (after["spec"], after["status"], after["metadata"]["generation"]) == ({"a": 3}, {"b": 2}, 2)

    async def test_pages_show_one_moment(self, client: KubeClient, namespace: str) -> None:
        for name in "abcde":
            await client.create(CONFIG_MAPS, _map(namespace, name, "1", page="yes"), namespace)
        first = json.loads(await client.list_page(CONFIG_MAPS, namespace, limit=2, label_selector="page=yes"))
        await client.create(CONFIG_MAPS, _map(namespace, "ab", "1", page="yes"), namespace)
        await client.delete(CONFIG_MAPS, "e", namespace)
        names = [item["metadata"]["name"] for item in first["items"]]
        page = first
        while token := page["metadata"].get("continue"):
            body = await client.list_page(
                CONFIG_MAPS, namespace, limit=2, label_selector="page=yes", continue_token=token
            )
            page = json.loads(body)
            names += [item["metadata"]["name"] for item in page["items"]]
            assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        assert names == ["a", "b", "c", "d", "e"]

    async def test_a_watch_goes_on_from_a_list(self, client: KubeClient, namespace: str) -> None:
        await client.create(CONFIG_MAPS, _map(namespace, "before", "1", watched="yes"), namespace)
        listed = json.loads(await client.list_page(CONFIG_MAPS, namespace, label_selector="watched=yes"))
        await client.create(CONFIG_MAPS, _map(namespace, "a", "1", watched="yes"), namespace)
        async with client.watch(
            CONFIG_MAPS, namespace, resource_version=_version(listed), label_selector="watched=yes"
        ) as stream:
            await client.patch(CONFIG_MAPS, {"data": {"v": "2"}}, "a", namespace)
            await client.delete(CONFIG_MAPS, "before", namespace)
            assert await _events(stream, 3) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "before")]

    async def test_a_selector_turns_changes_into_arrivals_and_departures(
        self, client: KubeClient, namespace: str
    ) -> None:
        listed = json.loads(await client.list_page(CONFIG_MAPS, namespace))
        async with client.watch(
            CONFIG_MAPS, namespace, resource_version=_version(listed), label_selector="in=yes"
        ) as stream:
            await client.create(CONFIG_MAPS, _map(namespace, "a", "1"), namespace)
            for value in ("yes", "no", "yes"):
                patch = {"metadata": {"labels": {"in": value}}}
                await client.patch(CONFIG_MAPS, patch, "a", namespace)
            assert await _events(stream, 3) == [("ADDED", "a"), ("DELETED", "a"), ("ADDED", "a")]

    async def test_the_server_ends_a_watch_when_asked_to(self, client: KubeClient, namespace: str) -> None:
        listed = json.loads(await client.list_page(CONFIG_MAPS, namespace))
        async with client.watch(
            CONFIG_MAPS, namespace, resource_version=_version(listed), server_timeout_s=1
        ) as stream:
            async with asyncio.timeout(_WATCH_LIMIT_S):
                while await stream.next_batch() is not None:
                    pass
            assert not stream.cut

    async def test_unknown_resources_and_verbs_are_refused(self, client: KubeClient, namespace: str) -> None:
        with pytest.raises(NotFound):
            await client.get(CONFIG_MAPS, "nothing", namespace)
        with pytest.raises(KubeError) as caught:
            await client.request("POST", CONFIG_MAPS.path(namespace, "a"), body={})
        assert caught.value.status == 405
