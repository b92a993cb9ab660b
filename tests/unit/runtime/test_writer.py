import json

import pytest

from controlplane.kube import PODS, AlreadyExists, ClusterAccess, Conflict, KubeClient, Resource
from controlplane.testing import FakeApiServer, FakeClock, Fault
from operators.runtime import Condition, Fence, FenceLost, Writer, set_condition

WIDGETS = Resource("example.dev", "v1", "widgets", "Widget")
META = {"name": "w", "namespace": "ns"}


@pytest.fixture
async def server():
    async with FakeApiServer() as fake:
        yield fake


@pytest.fixture
async def client(server):
    async with KubeClient(ClusterAccess(server.url), timeout_s=5.0) as kube:
        yield kube


async def test_apply_creates_then_changes_and_drops_what_is_left_out(client):
    writer = Writer(client, "serving")
    await writer.apply(WIDGETS, {"metadata": META, "spec": {"a": 1, "b": 2}})
    obj = json.loads(await writer.apply(WIDGETS, {"metadata": META, "spec": {"a": 3}}))
    assert obj["spec"] == {"a": 3}
    assert (obj["apiVersion"], obj["kind"]) == ("example.dev/v1", "Widget")


async def test_two_managers_keep_their_own_fields_and_do_not_fight(server, client):
    ours, theirs = Writer(client, "ours"), Writer(client, "theirs")
    await ours.apply(WIDGETS, {"metadata": META, "spec": {"ours": 1}})
    await theirs.apply(WIDGETS, {"metadata": META | {"labels": {"team": "x"}}, "spec": {"theirs": 1}})
    version = server.storage.version
    for _ in range(3):
        await ours.apply(WIDGETS, {"metadata": META, "spec": {"ours": 1}})
        await theirs.apply(WIDGETS, {"metadata": META | {"labels": {"team": "x"}}, "spec": {"theirs": 1}})
    assert server.storage.version == version
    obj = json.loads(await client.get(WIDGETS, "w", "ns"))
    assert obj["spec"] == {"ours": 1, "theirs": 1}
    with pytest.raises(Conflict, match=r"\.spec\.ours"):
        await theirs.apply(WIDGETS, {"metadata": META, "spec": {"ours": 2}}, force=False)


async def test_status_is_written_when_it_changes_and_only_then(server, client):
    now = FakeClock().utc_now()
    writer = Writer(client, "serving")
    await writer.apply(WIDGETS, {"metadata": META, "spec": {}})
    status = {"replicas": 1, "conditions": set_condition((), Condition("Ready", "True", "AllReady"), now)}
    body = await writer.apply_status(WIDGETS, "w", "ns", status, current=None)
    assert body is not None
    live = json.loads(body)["status"]
    before = len(server.requests)
    assert await writer.apply_status(WIDGETS, "w", "ns", status, current=live) is None
    assert len(server.requests) == before
    assert writer.writes_total == 2


async def test_delete_spares_a_successor(client):
    writer = Writer(client, "serving")
    first = json.loads(await writer.create(WIDGETS, {"metadata": META}))["metadata"]["uid"]
    with pytest.raises(AlreadyExists):
        await writer.create(WIDGETS, {"metadata": META})
    assert await writer.delete(WIDGETS, "w", "ns", uid=first) is True
    assert await writer.delete(WIDGETS, "w", "ns", uid=first) is False
    await writer.create(WIDGETS, {"metadata": META})
    with pytest.raises(Conflict):
        await writer.delete(WIDGETS, "w", "ns", uid=first)


async def test_finalizers_go_by_version_and_let_the_object_go(client):
    writer = Writer(client, "serving")
    obj = json.loads(await writer.create(WIDGETS, {"metadata": META | {"finalizers": ["trimtab.dev/x", "other"]}}))
    await writer.delete(WIDGETS, "w", "ns", uid=obj["metadata"]["uid"])
    live = json.loads(await client.get(WIDGETS, "w", "ns"))
    assert live["metadata"]["deletionTimestamp"]
    stale = obj["metadata"]["resourceVersion"]
    with pytest.raises(Conflict):
        await writer.set_finalizers(WIDGETS, "w", "ns", ["other"], resource_version=stale)
    version = live["metadata"]["resourceVersion"]
    live = json.loads(await writer.set_finalizers(WIDGETS, "w", "ns", ["other"], resource_version=version))
    version = live["metadata"]["resourceVersion"]
    await writer.set_finalizers(WIDGETS, "w", "ns", [], resource_version=version)
    assert await writer.delete(WIDGETS, "w", "ns", uid=obj["metadata"]["uid"]) is False


@pytest.mark.parametrize("verb", ["apply", "create", "delete", "status", "merge", "finalizers"])
async def test_no_write_passes_a_closed_fence(server, client, verb):
    clock = FakeClock()
    fence = Fence(clock)
    fence.extend_to(10.0)
    writer = Writer(client, "serving", fence.check)
    await clock.advance(10.0)
    calls = {
        "apply": lambda: writer.apply(WIDGETS, {"metadata": META}),
        "create": lambda: writer.create(WIDGETS, {"metadata": META}),
        "delete": lambda: writer.delete(WIDGETS, "w", "ns", uid="u"),
        "status": lambda: writer.apply_status(WIDGETS, "w", "ns", {"a": 1}, current=None),
        "merge": lambda: writer.merge(WIDGETS, "w", "ns", {"a": 1}),
        "finalizers": lambda: writer.set_finalizers(WIDGETS, "w", "ns", [], resource_version="1"),
    }
    with pytest.raises(FenceLost):
        await calls[verb]()
    assert server.writes() == []


async def test_a_retry_is_checked_as_well(server, client):
    clock = FakeClock()
    fence = Fence(clock)
    fence.extend_to(10.0)
    server.faults.append(Fault(method="DELETE", status=503, retry_after_s=0))

    def check() -> None:
        fence.check()
        fence.revoke()  # the lease is lost while the first attempt is under way

    with pytest.raises(FenceLost):
        await Writer(client, "serving", check).delete(WIDGETS, "w", "ns", uid="u")
    assert len(server.writes()) == 1


async def test_objects_without_an_address_are_refused(client):
    writer = Writer(client, "serving")
    with pytest.raises(ValueError, match=r"metadata\.name"):
        await writer.apply(PODS, {"metadata": {}})
    with pytest.raises(ValueError, match=r"metadata\.namespace"):
        await writer.apply(PODS, {"metadata": {"name": "a"}})
    with pytest.raises(ValueError, match="field manager"):
        Writer(client, "x" * 129)
