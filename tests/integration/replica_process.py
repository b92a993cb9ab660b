"""One operator replica as a real process, for tests that stop and kill it.

Usage: python -m tests.integration.replica_process URL NAME. It annotates every ConfigMap it sees with its name,
again and again: each reconcile of the leader is a write, so that a write by two would show.
"""

import asyncio
import sys

import msgspec

from controlplane.kube import CONFIG_MAPS, ClusterAccess, KubeClient
from operators.runtime import (
    Controller,
    Informer,
    KubeLeaseStore,
    LeaderElector,
    LeaderTimes,
    Manager,
    ObjectMeta,
    Projection,
    Result,
    Row,
    Wire,
    Writer,
)

TIMES = LeaderTimes(lease_duration_s=3.0, renew_deadline_s=2.0, retry_period_s=0.4)


class MapWire(Wire):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)


def project(wire: MapWire) -> Row:
    meta = wire.metadata
    return Row(meta.namespace, meta.name, meta.uid, meta.resourceVersion)


async def main(url: str, name: str) -> None:
    manager = Manager(stop_grace_s=5.0)
    async with KubeClient(ClusterAccess(url, token=name), timeout_s=5.0) as client:
        maps = Informer(client, CONFIG_MAPS, Projection(MapWire, project))
        writer = Writer(client, "replica", manager.fence.check)

        async def reconcile(key: str) -> Result:
            row = maps.store.get(key)
            if row is not None:
                patch = {"metadata": {"annotations": {"by": name}}}
                await writer.merge(CONFIG_MAPS, row.name, row.namespace, patch)
            return Result(requeue_after_s=0.02)

        manager.add_informer(maps)
        manager.add_controller(Controller("maps", reconcile, workers=2, seeds=maps.store.all_keys))
        leases = KubeLeaseStore(client, "default", "replica", call_timeout_s=TIMES.retry_period_s)
        manager.elect(LeaderElector(leases, name, manager.fence, times=TIMES))
        await manager.run(handle_signals=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
