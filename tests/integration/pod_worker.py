"""A worker that measures one trial in a pod: `python -m tests.integration.pod_worker DATABASE INSTALLATION TRIAL`."""

from __future__ import annotations

import sys

from controlplane.cluster_thread import ClusterThread
from controlplane.store.database import open_database
from controlplane.store.references import References
from controlplane.store.trials import Trials
from controlplane.tuning_embedded import utc_now
from controlplane.tuning_pods import ClusterPods
from operators.serving.render import RenderSettings
from tuner.embedded import LocalQueue
from tuner.measure.pods import PodRunner
from tuner.work import Work

LEASE_S = 6.0


def main() -> None:
    url, installation, trial = sys.argv[1:]
    store = Trials(open_database(url))
    pods = ClusterPods(ClusterThread(), RenderSettings(), installation)
    runner = PodRunner(pods, lambda leased, why: store.waits(leased, why, now=utc_now()), References(store.database))
    queue = LocalQueue(lambda _: None, parallel=1)
    work = Work(store=store, runner=runner, queue=queue, owner="test", now=utc_now, lease_s=LEASE_S)
    work.on(trial)
    queue.close()


if __name__ == "__main__":
    main()
