import asyncio
import os
import time

import pytest

from controlplane.kube import PODS, ClusterAccess, KubeClient
from controlplane.testing import FakeApiServer, Fault
from operators.runtime import (
    DONE,
    Controller,
    FenceLost,
    FenceWatchdog,
    KubeLeaseStore,
    LeaderElector,
    LeaderTimes,
    Manager,
    Offload,
    OffloadError,
    Result,
    Writer,
)
from tests.unit.runtime.helpers import informer, put, until

QUICK = LeaderTimes(lease_duration_s=3.0, renew_deadline_s=2.0, retry_period_s=0.4)


class Replica:
    """One operator process in small: writes an annotation on every pod it sees."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.client = KubeClient(ClusterAccess(url), timeout_s=5.0)
        self.manager = Manager(stop_grace_s=5.0)
        self.pods = informer(self.client)
        self.writer = Writer(self.client, "replica", self.manager.fence.check)
        self.done: list[str] = []
        self.lost: list[str] = []
        self.controller = Controller("pods", self.reconcile, seeds=self.pods.store.all_keys)
        self.pods.add_handler(lambda old, new: self.controller.enqueue((new or old).key))
        self.manager.add_informer(self.pods)
        self.manager.add_controller(self.controller)
        leases = KubeLeaseStore(self.client, "default", "operator", call_timeout_s=QUICK.retry_period_s)
        fence = self.manager.fence
        elector = LeaderElector(leases, name, fence, times=QUICK, lost=self.lost.append)
        self.manager.elect(elector, FenceWatchdog(fence, self.lost.append))
        self.task = asyncio.create_task(self.manager.run())

    async def reconcile(self, key: str) -> Result:
        pod = self.pods.store.get(key)
        if pod is not None and pod.phase != self.name:
            body = await self.writer.merge(
                PODS, pod.name, pod.namespace, {"status": {"phase": self.name}}, subresource="status"
            )
            self.pods.absorb(body)
        self.done.append(key)
        return DONE

    async def end(self) -> None:
        self.manager.stop()
        await self.task
        await self.client.aclose()


@pytest.fixture
async def server():
    async with FakeApiServer() as fake:
        yield fake


async def test_a_standby_takes_over_at_once_after_an_orderly_stop(server):
    put(server, "a")
    first = Replica(server.url, "first")
    await until(lambda: first.done == ["default/a"])
    second = Replica(server.url, "second")
    await until(lambda: second.pods.synced)
    assert second.done == []
    await first.end()
    with pytest.raises(FenceLost):
        first.manager.fence.check()
    await until(lambda: second.done == ["default/a"])
    put(server, "b")
    await until(lambda: "default/b" in second.done)
    await second.end()
    assert server.storage.get("coordination.k8s.io/v1/leases", "default", "operator")["spec"]["holderIdentity"] == ""


async def test_a_leader_cut_off_loses_and_the_standby_takes_over(server):
    put(server, "a")
    first = Replica(server.url, "first")
    await until(lambda: first.done)
    second = Replica(server.url, "second")
    await until(lambda: second.pods.synced)
    server.faults.append(Fault(path_contains="leases", hang=True))
    await until(lambda: first.lost or second.lost)
    server.faults.clear()
    await until(lambda: second.done)
    await asyncio.gather(first.end(), second.end())


async def test_readiness_and_health_say_what_is_missing(server):
    server.faults.append(Fault(status=403, path_contains="pods"))
    async with KubeClient(ClusterAccess(server.url), timeout_s=5.0) as client:
        manager = Manager()
        pods = informer(client)
        manager.add_informer(pods)
        await manager.endpoints.start("127.0.0.1", 0)
        task = asyncio.create_task(manager.run())

        async def get(path: str) -> tuple[int, str]:
            reader, writer = await asyncio.open_connection("127.0.0.1", manager.endpoints.port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
            writer.close()
            return int(head.split()[1]), body

        await until(lambda: pods.health.last_error_status == 403)
        status, body = await get("/readyz")
        assert status == 503 and "pods: " in body and "403" in body
        assert (await get("/healthz"))[0] == 200
        assert (await get("/nothing"))[0] == 404
        server.faults.clear()
        await until(lambda: pods.synced)
        assert (await get("/readyz")) == (200, "ok\n")
        _, text = await get("/metrics")
        assert 'trimtab_informer_synced{resource="pods"} 1.0' in text
        assert 'trimtab_informer_watch_age_seconds{resource="pods"}' in text
        manager.stop()
        await task
        await manager.endpoints.stop()


async def test_the_elector_must_hold_the_fence_the_writers_check(server):
    async with KubeClient(ClusterAccess(server.url)) as client:
        leases = KubeLeaseStore(client, "default", "operator", call_timeout_s=2.0)
        with pytest.raises(ValueError, match="own fence"):
            Manager().elect(LeaderElector(leases, "x", Manager().fence))


async def test_heavy_work_leaves_the_loop_free():
    offload = Offload(timeout_s=30.0)
    other = await offload(os.getpid)
    assert other != os.getpid()
    with pytest.raises(ZeroDivisionError):
        await offload(divmod, 1, 0)
    offload.close()


async def test_a_worker_that_dies_or_hangs_is_replaced():
    offload = Offload(timeout_s=30.0)
    with pytest.raises(OffloadError, match="died"):
        await offload(os._exit, 1)
    assert await offload(abs, -2) == 2
    offload.close()
    impatient = Offload(timeout_s=0.2)
    with pytest.raises(OffloadError, match="longer than"):
        await impatient(time.sleep, 60)
    impatient.close()
