"""What `make up` leaves behind: the lines it prints work as printed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import urllib.request

import pytest

from devcluster import install
from devcluster.cluster import Cluster
from devcluster.paths import TREE

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster.open(os.environ.get("TRIMTAB_CLUSTER", "dev"))


@pytest.fixture(scope="module")
def lines(cluster: Cluster) -> list[str]:
    text = install.things_to_try(cluster, install.served_model(install.target_of(cluster)))
    return [line.strip() for line in text.splitlines() if line.startswith("  ")]


def test_the_first_line_shows_pools_and_the_sample(lines: list[str]) -> None:
    shown = subprocess.run(shlex.split(lines[0]), check=True, capture_output=True, text=True).stdout

    assert "gpupool.trimtab.dev/cpu" in shown
    assert "servingdeployment.trimtab.dev/sample" in shown


def test_the_second_line_streams_tokens(lines: list[str]) -> None:
    words = shlex.split(lines[1])
    assert words[:2] == ["curl", "-N"]
    url, body = next(word for word in words if word.startswith("http")), words[-1]
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    with opener.open(request, timeout=60) as answer:
        events = [line.decode().strip() for line in answer if line.startswith(b"data: ")]

    assert events[-1] == "data: [DONE]"
    tokens = [json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in events[:-1]]
    assert len(tokens) > 10


def test_the_third_line_makes_a_tuning_job_that_the_cluster_takes(lines: list[str]) -> None:
    make, look = lines[2].split(" && ")
    assert look.endswith(" get tuningjobs -w")
    shown = subprocess.run(
        [*shlex.split(make), "--dry-run=server"], cwd=TREE, check=True, capture_output=True, text=True
    )
    assert "tuningjob.trimtab.dev/tune-sample" in shown.stdout


def test_the_last_line_stops_this_cluster(lines: list[str], cluster: Cluster) -> None:
    assert lines[-1] == (
        "make down" if cluster.plan.name == "dev" else f"python3 -m devcluster down --name {cluster.plan.name}"
    )


def test_the_api_answers_on_its_forward(cluster: Cluster) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    with opener.open(f"http://127.0.0.1:{cluster.plan.ports['api']}/healthz", timeout=10) as answer:
        assert answer.status == 200


def test_durations_of_the_start_were_recorded(cluster: Cluster) -> None:
    record = json.loads((cluster.plan.state / "timing.json").read_text())

    assert record["outcome"] == "up"
    assert record["phases_s"]["etcd"] >= 0
    assert record["total_s"] >= max(record["phases_s"].values())
