"""The controller runtime and its client against a real API server."""

import asyncio
import base64
import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from controlplane.kube import (
    CONFIG_MAPS,
    EVENTS,
    PODS,
    AlreadyExists,
    Conflict,
    Forbidden,
    Invalid,
    KubeClient,
    NotFound,
    Unauthorized,
    Unreachable,
    load_access,
)
from devcluster.cluster import Cluster
from operators.runtime import (
    EventRecorder,
    Fence,
    FenceLost,
    Informer,
    KubeLeaseStore,
    LeaderElector,
    LeaderTimes,
    LeaseRecord,
    ObjectMeta,
    Projection,
    Regarding,
    Row,
    Wire,
    Writer,
)

pytestmark = pytest.mark.cluster


class MapWire(Wire):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    data: dict[str, str] = msgspec.field(default_factory=dict)


class MapRow(Row):
    value: str


def project(wire: MapWire) -> MapRow:
    meta = wire.metadata
    return MapRow(meta.namespace, meta.name, meta.uid, meta.resourceVersion, wire.data.get("v", ""))


@pytest.fixture
async def client(cluster_env: dict[str, str]) -> AsyncIterator[KubeClient]:
    async with KubeClient(await load_access(cluster_env["KUBECONFIG"])) as kube:
        yield kube


@asynccontextmanager
async def watching(client: KubeClient, namespace: str, **options):
    informer = Informer(
        client,
        CONFIG_MAPS,
        Projection(MapWire, project),
        namespace=namespace,
        label_selector="test=runtime",
        **options,
    )
    seen: list[tuple[str | None, str | None, str]] = []
    informer.add_handler(lambda old, new: seen.append((old and old.value, new and new.value, (new or old).name)))
    task = asyncio.create_task(informer.run())
    try:
        await until(lambda: informer.synced and informer.health.watches_total > 0)
        yield informer, seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object], limit_s: float = 60.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.02)


def config_map(namespace: str, name: str, value: str) -> dict[str, object]:
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"test": "runtime"}},
        "data": {"v": value},
    }


async def test_pages_events_and_a_large_object(client, namespace):
    writer = Writer(client, "test-runtime")
    await asyncio.gather(*(writer.create(CONFIG_MAPS, config_map(namespace, f"m{n}", "1")) for n in range(7)))
    async with watching(client, namespace, page_size=3) as (informer, seen):
        assert len(informer.store) == 7
        seen.clear()
        await writer.apply(CONFIG_MAPS, config_map(namespace, "m0", "2"))
        big = "x" * (1024 * 1024 - 100)  # the server's limit for a ConfigMap is 1 MiB
        await writer.create(CONFIG_MAPS, config_map(namespace, "big", big))
        gone = informer.store.get(f"{namespace}/m1")
        assert await writer.delete(CONFIG_MAPS, "m1", namespace, uid=gone.uid) is True
        await until(lambda: len(seen) == 3)
        assert seen == [("1", "2", "m0"), (None, big, "big"), ("1", None, "m1")]
        assert informer.health.undecodable_total == 0


async def test_apply_ownership_preconditions_and_refusals(client, namespace):
    ours, theirs = Writer(client, "test-ours"), Writer(client, "test-theirs")
    first = json.loads(await ours.apply(CONFIG_MAPS, config_map(namespace, "m", "1")))
    with pytest.raises(Conflict, match="test-ours"):
        await theirs.apply(CONFIG_MAPS, config_map(namespace, "m", "2"), force=False)
    with pytest.raises(AlreadyExists):
        await ours.create(CONFIG_MAPS, config_map(namespace, "m", "1"))
    unchanged = json.loads(await ours.apply(CONFIG_MAPS, config_map(namespace, "m", "1")))
    assert unchanged["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    await ours.apply(CONFIG_MAPS, config_map(namespace, "m", "3"))
    with pytest.raises(Conflict):
        await ours.merge(
            CONFIG_MAPS,
            "m",
            namespace,
            {"data": {"v": "4"}},
            resource_version=first["metadata"]["resourceVersion"],
        )
    with pytest.raises(Conflict):
        await ours.delete(CONFIG_MAPS, "m", namespace, uid="00000000-0000-0000-0000-000000000000")
    with pytest.raises(Invalid):
        await ours.create(CONFIG_MAPS, config_map(namespace, "NOT-A-NAME", "1"))
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAPS, "nothing", namespace)


async def test_our_own_write_is_read_at_once_and_told_once_at_most(client, namespace):
    writer = Writer(client, "test-runtime")
    async with watching(client, namespace) as (informer, seen):
        row = informer.absorb(await writer.create(CONFIG_MAPS, config_map(namespace, "m", "1")))
        assert row is not None and row.value == "1"
        assert informer.store.get(f"{namespace}/m").value == "1"
        informer.absorb(await writer.apply(CONFIG_MAPS, config_map(namespace, "m", "2")))
        assert informer.store.get(f"{namespace}/m").value == "2"
        await writer.create(CONFIG_MAPS, config_map(namespace, "other", "9"))
        await until(lambda: (None, "9", "other") in seen)
        # Usually the answer comes before the event and nothing is told; the event may overtake it.
        told = [entry for entry in seen if entry[2] == "m"]
        assert len(told) == len(set(told)) <= 2


async def test_the_callers_token_decides_not_ours(client, namespace, kubectl):
    kubectl("create", "serviceaccount", "reader", "-n", namespace)
    token = kubectl("create", "token", "reader", "-n", namespace).strip()
    with pytest.raises(Forbidden, match=f"system:serviceaccount:{namespace}:reader"):
        await client.list_page(CONFIG_MAPS, namespace, token=token)
    kubectl("create", "role", "r", "-n", namespace, "--verb=list", "--resource=configmaps")
    kubectl("create", "rolebinding", "r", "-n", namespace, "--role=r", f"--serviceaccount={namespace}:reader")

    async def allowed() -> bool:
        try:
            await client.list_page(CONFIG_MAPS, namespace, token=token)
        except Forbidden:
            return False
        return True

    await _eventually(allowed)
    with pytest.raises(Forbidden):
        await client.list_page(PODS, namespace, token=token)
    with pytest.raises(Unauthorized):
        await client.list_page(CONFIG_MAPS, namespace, token="nonsense")


async def _eventually(check: Callable[[], Awaitable[bool]], limit_s: float = 30.0) -> None:
    async with asyncio.timeout(limit_s):
        while not await check():
            await asyncio.sleep(0.1)


async def test_a_server_with_another_ca_is_not_trusted(cluster_env, tmp_path):
    config = msgspec.yaml.decode(await asyncio.to_thread(Path(cluster_env["KUBECONFIG"]).read_bytes))
    own = base64.b64encode(_self_signed()).decode()
    for cluster in config["clusters"]:
        cluster["cluster"].pop("certificate-authority", None)
        cluster["cluster"]["certificate-authority-data"] = own
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    async with KubeClient(await load_access(path)) as stranger:
        with pytest.raises(Unreachable, match="not trusted"):
            await stranger.request("GET", "/version", retry=False)


def _self_signed() -> bytes:

    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout /dev/null -subj /CN=x"
    return subprocess.run(command.split(), capture_output=True, check=True).stdout


async def test_the_lease_is_held_by_one_and_handed_over(client, namespace):
    store = KubeLeaseStore(client, namespace, "operator", call_timeout_s=2.0)
    now = datetime.now(UTC).replace(microsecond=123456)
    created = await store.create(LeaseRecord("nobody-now", 1.0, now, now, 0, ""))
    assert await store.get() == created
    assert created.renewed_at == now
    with pytest.raises(Conflict):
        await store.replace(replace(created, resource_version="1"))
    times = LeaderTimes(lease_duration_s=3.0, renew_deadline_s=2.0, retry_period_s=0.3)
    fences = [Fence(), Fence()]
    electors = [
        LeaderElector(store, name, fence, times=times, lost=pytest.fail)
        for name, fence in zip("ab", fences, strict=True)
    ]
    tasks = [asyncio.create_task(elector.run()) for elector in electors]
    await until(lambda: any(fence.is_open for fence in fences))
    first = 0 if fences[0].is_open else 1
    assert not fences[1 - first].is_open
    tasks[first].cancel()
    await electors[first].release()
    with pytest.raises(FenceLost):
        fences[first].check()
    await until(lambda: fences[1 - first].is_open)
    record = await store.get()
    assert record is not None and record.holder == "ab"[1 - first]
    tasks[1 - first].cancel()
    await electors[1 - first].release()


async def test_events_are_accepted(client, namespace):
    about = json.loads(await Writer(client, "t").create(CONFIG_MAPS, config_map(namespace, "m", "1")))
    recorder = EventRecorder(client, "trimtab-test")
    regarding = Regarding("v1", "ConfigMap", "m", namespace, about["metadata"]["uid"])
    for _ in range(4):
        recorder.event(regarding, "Warning", "NoMatchingFlavor", "no pool fits", "Place")
    await recorder.flush(10.0)
    assert recorder.lost_total == 0
    events = json.loads(await client.list_page(EVENTS, namespace))["items"]
    assert [(e["reason"], e["series"]["count"]) for e in events if e["reason"] == "NoMatchingFlavor"] == [
        ("NoMatchingFlavor", 4)
    ]


async def test_a_restarted_api_server_and_a_compaction_lose_nothing(client, namespace):
    cluster = Cluster.open(os.environ.get("TRIMTAB_CLUSTER", "dev"))
    writer = Writer(client, "test-runtime")
    await writer.create(CONFIG_MAPS, config_map(namespace, "same", "1"))
    await writer.create(CONFIG_MAPS, config_map(namespace, "changed", "1"))
    async with watching(client, namespace) as (parted, missed):
        pass  # cut off from here on, as by a long partition
    missed.clear()
    async with watching(client, namespace) as (present, seen):
        seen.clear()
        await writer.apply(CONFIG_MAPS, config_map(namespace, "changed", "2"))
        await asyncio.to_thread(cluster.restart, "kube-apiserver")
        await asyncio.to_thread(cluster.compact)

        async def created() -> bool:
            try:
                await writer.create(CONFIG_MAPS, config_map(namespace, "born", "1"))
            except AlreadyExists:
                return True
            except (Unreachable, Forbidden):  # RBAC is filled a moment after /readyz
                return False
            return True

        await _eventually(created)
        await until(lambda: len(seen) == 2)
        assert sorted(seen, key=str) == [("1", "2", "changed"), (None, "1", "born")]
        # The server started anew knows nothing of the version the other informer stopped at: 410, list, differences.
        task = asyncio.create_task(parted.run())
        await until(lambda: parted.health.lists_total == 2)
        task.cancel()
        assert sorted(missed, key=str) == [("1", "2", "changed"), (None, "1", "born")]
        assert parted.health.gone_total == 1
        assert present.health.undecodable_total == 0
