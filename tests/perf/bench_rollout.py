"""Requests lost in a rolling update and a scale-down: real engine, real kubelets, open loop of 2 requests/s.

64 tokens in, 16 out, 3 minutes; a connection per request. Counted as failed: any answer but 200, an error event, a
stream that ends early, a token missing. `failed_requests_keep_alive` is the same with reused connections, where a
request may meet a connection that its server is just closing; a client library would repeat that one.
"""

import os
import secrets
import statistics
import sys

from devcluster.cluster import Cluster
from tests.perf.report import Emit, Figure
from tests.perf.rollout_run import run as roll

DURATION_S = 180.0
RATE_PER_S = 2.0


def run(emit: Emit) -> None:
    """Emit failed_requests and what the latency was meanwhile."""
    cluster = Cluster.open(os.environ.get("TRIMTAB_CLUSTER", "dev"))
    for keep_alive, figure in ((False, "failed_requests"), (True, "failed_requests_keep_alive")):
        namespace = f"bench-rollout-{secrets.token_hex(3)}"
        cluster.kubectl("create", "namespace", namespace)
        try:
            seen = roll(cluster, namespace, DURATION_S, RATE_PER_S, keep_alive=keep_alive)
        finally:
            cluster.kubectl("delete", "namespace", namespace, "--wait=false")
        for error in seen.failed:
            sys.stderr.write(f"{figure}: {error}\n")
        count = len(seen.records)
        emit(Figure("rollout", figure, len(seen.failed), "requests", 0, "lower", count))
        if not keep_alive:
            ttft_ms = [record["ttft_s"] * 1e3 for record in seen.records if record["ttft_s"] is not None]
            spread = (min(ttft_ms), max(ttft_ms))
            emit(Figure("rollout", "ttft_ms_p50", statistics.median(ttft_ms), "ms", None, "lower", count, spread))
