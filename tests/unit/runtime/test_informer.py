import asyncio
import json

import pytest

from controlplane.kube import PODS, ClusterAccess, KubeClient
from controlplane.testing import FakeApiServer, Fault
from operators.runtime import Informer, ObjectMeta, Projection, SystemClock
from tests.unit.runtime.helpers import COLLECTION, PodRow, PodWire, informer, pod, project, put, running, until


@pytest.fixture
async def server():
    async with FakeApiServer() as fake:
        yield fake


async def test_list_in_pages_then_events(server):
    for n in range(7):
        put(server, f"p{n}", owner="o1")
    async with running(server, page_size=3) as (pods, seen):
        assert sorted(seen) == [(None, "Pending", f"p{n}") for n in range(7)]
        assert len([p for m, p, _ in server.requests if m == "GET" and p.endswith("/pods")]) == 4  # 3 pages, 1 watch
        seen.clear()
        put(server, "p0", "Running", owner="o1")
        put(server, "new")
        server.storage.delete(COLLECTION, "default", "p1", {})
        await until(lambda: len(seen) == 3)
        assert seen == [("Pending", "Running", "p0"), (None, "Pending", "new"), ("Pending", None, "p1")]
        assert [p.name for p in pods.store.by_index("owner", "o1")] == ["p0", "p2", "p3", "p4", "p5", "p6"]
        assert pods.store.index_values("owner") == ["o1", ""]


async def test_relist_after_410_gives_exactly_the_differences(server):
    for name in ("same", "changed", "gone", "replaced"):
        put(server, name)
    async with running(server) as (pods, seen):
        seen.clear()
        server.watches.frozen = True  # these changes are missed
        put(server, "changed", "Running")
        put(server, "born")
        server.storage.delete(COLLECTION, "default", "gone", {})
        server.storage.delete(COLLECTION, "default", "replaced", {})
        put(server, "replaced", "Succeeded")
        server.storage.compact()
        server.watches.frozen = False
        server.watches.end()
        await until(lambda: pods.health.lists_total == 2)
        assert sorted(seen, key=str) == sorted(
            [
                ("Pending", "Running", "changed"),
                (None, "Pending", "born"),
                ("Pending", None, "gone"),
                ("Pending", None, "replaced"),
                (None, "Succeeded", "replaced"),
            ],
            key=str,
        )
        assert pods.health.gone_total == 1
        assert {p.name for p in pods.store} == {"same", "changed", "born", "replaced"}


async def test_410_as_an_event_in_the_stream_relists(server):
    put(server, "a")
    async with running(server) as (pods, seen):
        seen.clear()
        server.watches.send_error(410, "Expired", "too old resource version")
        await until(lambda: pods.health.lists_total == 2)
        assert seen == []


async def test_lists_that_only_lead_to_the_next_410_become_rare(server):
    slept_s: list[float] = []

    class Hurried(SystemClock):
        async def sleep(self, delay_s: float) -> None:
            slept_s.append(delay_s)
            await asyncio.sleep(0)

    server.faults.append(Fault(method="WATCH", status=410))
    async with KubeClient(ClusterAccess(server.url), timeout_s=5.0) as client:
        task = asyncio.create_task(informer(client, clock=Hurried()).run())
        await until(lambda: len(slept_s) >= 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert max(slept_s) >= 15.0


async def test_another_error_event_resumes_without_a_list(server):
    put(server, "a")
    async with running(server) as (pods, seen):
        server.watches.send_error(500, "InternalError", "etcdserver: no leader")
        await until(lambda: pods.health.watches_total == 2)
        assert pods.health.lists_total == 1
        put(server, "b")
        await until(lambda: (None, "Pending", "b") in seen)


@pytest.mark.parametrize("clean", [True, False])
async def test_the_end_of_a_watch_resumes_where_it_was(server, clean):
    put(server, "a")
    async with running(server) as (pods, seen):
        seen.clear()
        put(server, "a", "Running")
        await until(lambda: seen)
        last = str(server.storage.version)
        server.watches.end(clean=clean)
        put(server, "b")  # happens while nobody watches
        await until(lambda: len(seen) == 2)
        assert seen[1] == (None, "Pending", "b")
        assert server.watches.resumed_from[-1] == last
        assert pods.health.lists_total == 1
        assert (pods.health.clean_ends_total, pods.health.cuts_total) == ((1, 0) if clean else (0, 1))


async def test_a_bookmark_moves_the_place_to_resume_from(server):
    put(server, "a")
    async with running(server) as (pods, _):
        for _ in range(50):
            server.storage.bump()  # other resources change
        server.watches.bookmark()
        await until(lambda: pods.health.events_total == 1)
        server.storage.compact()  # the version of the last pod event is gone, the bookmark's is not
        server.watches.end()
        await until(lambda: pods.health.watches_total == 2)
        assert server.watches.resumed_from[-1] == str(server.storage.version)
        assert pods.health.lists_total == 1


async def test_a_silent_watch_is_given_up_and_resumed(server):
    put(server, "a")
    async with running(server, inactivity_s=0.05) as (pods, seen):
        server.watches.frozen = True
        put(server, "a", "Running")
        server.watches.frozen = False
        await until(lambda: ("Pending", "Running", "a") in seen)
        assert pods.health.silent_total >= 1
        assert pods.health.lists_total == 1


async def test_duplicated_events_change_nothing(server):
    put(server, "a")
    async with running(server) as (pods, seen):
        seen.clear()
        server.watches.duplicate = True
        put(server, "a", "Running")
        put(server, "b")
        server.storage.delete(COLLECTION, "default", "b", {})
        await until(lambda: pods.health.events_total == 6)
        assert seen == [("Pending", "Running", "a"), (None, "Pending", "b"), ("Pending", None, "b")]


async def test_an_expired_continue_token_starts_the_list_anew(server):
    for n in range(30):
        put(server, f"p{n:02d}")
    server.faults.append(Fault(method="GET", times=1))  # lets the first page pass
    server.faults.append(Fault(method="GET", status=410, times=1))
    async with running(server, page_size=4) as (pods, seen):
        assert sorted(name for _, _, name in seen) == [f"p{n:02d}" for n in range(30)]
        assert pods.health.gone_total == 1


async def test_one_undecodable_object_does_not_take_the_others_along(server):
    put(server, "good")
    bad = pod("bad")
    bad["status"] = {"phase": ["not", "a", "string"]}
    server.storage.put(COLLECTION, bad)
    async with running(server) as (pods, seen):
        assert [p.name for p in pods.store] == ["good"]
        assert pods.health.undecodable_total == 1
        server.storage.put(COLLECTION, bad | {"spec": {"changed": True}})
        put(server, "good", "Running")
        await until(lambda: ("Pending", "Running", "good") in seen)
        assert pods.health.undecodable_total == 2


async def test_a_projection_that_fails_on_one_object_does_not_take_the_others_along(server):
    def fragile(wire: PodWire) -> PodRow:
        if wire.status.phase == "Odd":
            raise IndexError("a bug in a projection")
        return project(wire)

    put(server, "good")
    put(server, "odd", "Odd")
    async with KubeClient(ClusterAccess(server.url)) as client:
        pods = Informer(client, PODS, Projection(PodWire, fragile))
        task = asyncio.create_task(pods.run())
        await until(lambda: pods.synced and pods.health.watches_total)
        assert [p.name for p in pods.store] == ["good"]
        put(server, "good", "Odd")
        put(server, "late")
        await until(lambda: "default/late" in pods.store)
        assert pods.health.undecodable_total == 2
        assert pods.store.get("default/good").phase == "Pending"  # what was known of it stays
        server.watches.send_error(410, "Expired", "too old resource version")
        await until(lambda: pods.health.lists_total == 2)
        assert "default/good" in pods.store
        server.storage.delete(COLLECTION, "default", "good", {})
        await until(lambda: "default/good" not in pods.store)
        task.cancel()


@pytest.mark.parametrize(
    "metadata",
    [
        {"name": "a", "namespace": "default", "resourceVersion": "9", "labels": ["no", "map"]},
        {"name": "a", "namespace": "default", "resourceVersion": 9, "uid": None},
    ],
    ids=["labels", "version"],
)
async def test_an_object_that_cannot_be_decoded_is_deleted_by_its_name(metadata):
    pods = informer(KubeClient(ClusterAccess("http://127.0.0.1:9")))
    row = project(PodWire(ObjectMeta("a", "default", "u", "5")))
    pods.upsert(row, listed=True)
    gone: list[str] = []
    pods.add_handler(lambda old, new: gone.append(old.name) if new is None else None)
    line = json.dumps({"type": "DELETED", "object": {"metadata": metadata}}).encode()
    later = json.dumps({"type": "ADDED", "object": pod("later", resourceVersion="10")}).encode()
    pods._reflector._take_events([line, later])
    assert gone == ["a"]
    assert list(pods.store.all_keys()) == ["default/later"], "what comes after it in the stream is read"
    assert pods.resource_version == "10"


async def test_a_failing_handler_does_not_stop_the_others(server):
    async with KubeClient(ClusterAccess(server.url)) as client:
        pods = informer(client)
        seen: list[str] = []

        def broken(old, new) -> None:
            raise RuntimeError("a bug in a controller")

        pods.add_handler(broken)
        pods.add_handler(lambda old, new: seen.append((new or old).name))
        task = asyncio.create_task(pods.run())
        await pods.wait_synced()
        put(server, "a")
        put(server, "b")
        await until(lambda: seen == ["a", "b"])
        assert pods.handler_errors_total == 2
        task.cancel()


async def test_missing_rights_are_visible_and_heal(server):
    server.faults.append(Fault(status=403, times=3))
    async with KubeClient(ClusterAccess(server.url)) as client:
        pods = informer(client)
        task = asyncio.create_task(pods.run())
        await until(lambda: pods.health.last_error_status == 403)
        assert not pods.synced
        await until(lambda: pods.synced)
        await until(lambda: pods.health.last_error is None)
        task.cancel()


async def test_a_restarted_server_is_found_again_without_a_list(server):
    put(server, "a")
    async with running(server) as (pods, seen):
        await server.stop()
        put(server, "b")
        await until(lambda: pods.health.errors_total > 0 or pods.health.cuts_total > 0)
        await server.start()
        await until(lambda: (None, "Pending", "b") in seen)
        assert pods.health.lists_total == 1


async def test_selectors_reach_list_and_watch(server):
    put(server, "in", labels={"app": "x"})
    put(server, "out", labels={"app": "y"})
    async with running(server, label_selector="app=x") as (pods, seen):
        assert [p.name for p in pods.store] == ["in"]
        put(server, "out", labels={"app": "x"})
        put(server, "in", labels={"app": "y"})
        await until(lambda: len(seen) == 3)
        assert [p.name for p in pods.store] == ["out"]


# absorb: our own writes


async def test_our_own_write_is_read_at_once_and_wakes_nobody(server):
    put(server, "a")
    async with running(server) as (pods, seen), KubeClient(ClusterAccess(server.url)) as client:
        seen.clear()
        server.watches.frozen = True
        body = await client.patch(PODS, {"status": {"phase": "Running"}}, "a", "default", subresource="status")
        assert pods.absorb(body).phase == "Running"
        assert pods.store.get("default/a").phase == "Running"
        server.watches.frozen = False
        server.watches.send_raw(json.dumps({"type": "MODIFIED", "object": json.loads(body)}).encode() + b"\n")
        put(server, "b")
        await until(lambda: seen)
        assert seen == [(None, "Pending", "b")]


async def test_a_foreign_change_that_our_answer_includes_still_wakes_the_handlers(server):
    put(server, "a")
    async with running(server) as (pods, seen):
        seen.clear()
        server.watches.frozen = True
        foreign = put(server, "a", "Running")
        ours = put(server, "a", "Running", labels={"ours": "yes"})
        pods.absorb(json.dumps(ours).encode())
        for obj in (foreign, ours):
            server.watches.send_raw(json.dumps({"type": "MODIFIED", "object": obj}).encode() + b"\n")
        await until(lambda: pods.health.events_total == 2)
        assert seen == [("Running", "Running", "a")]
        assert pods.store.get("default/a").resource_version == ours["metadata"]["resourceVersion"]


async def test_a_list_wakes_the_handlers_for_what_it_may_have_hidden(server):
    put(server, "a")
    async with running(server) as (pods, seen):
        seen.clear()
        server.watches.frozen = True
        put(server, "a", "Running")
        pods.absorb(json.dumps(put(server, "a", "Running", labels={"ours": "yes"})).encode())
        server.storage.compact()
        server.watches.frozen = False
        server.watches.end()
        await until(lambda: pods.health.lists_total == 2)
        assert seen == [("Running", "Running", "a")]


async def test_an_answer_the_watch_has_passed_brings_nothing_back(server):
    async with running(server) as (pods, seen):
        created = put(server, "a")
        server.storage.delete(COLLECTION, "default", "a", {})
        await until(lambda: len(seen) == 2)
        assert pods.absorb(json.dumps(created).encode()) is None
        assert len(pods.store) == 0


async def test_an_absorbed_creation_survives_a_list_older_than_it(server):
    async with running(server) as (pods, seen):
        server.watches.frozen = True
        pods.list_started()
        version = str(server.storage.version)
        created = put(server, "a")
        assert pods.absorb(json.dumps(created).encode()) is not None
        pods.list_finished(version)
        assert "default/a" in pods.store
        assert seen == []
