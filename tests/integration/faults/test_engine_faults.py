"""Real engines on real kubelets: killed, never started, and replaced under load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from devcluster.cluster import Cluster
from tests.integration.faults.engine_processes import ask, completes, kill, metric, processes_of
from tests.integration.faults.pod_history import PodHistory
from tests.integration.faults.rest import Rest, eventually
from tests.integration.faults.serving_objects import Serving, cpu_spec, ready
from tests.perf.rollout_run import run as roll

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]
Name = Callable[[str], Serving]
MISSING = "localhost/trimtab/no-such-engine:1"


def restarts(pod: Any) -> int:
    return sum(status["restartCount"] for status in pod["status"]["containerStatuses"])


def address(pod: Any) -> str:
    ports = pod["spec"]["containers"][0]["ports"]
    return f"http://{pod['status']['podIP']}:{ports[0]['containerPort']}"


def test_engine_processes_are_killed(cluster: Cluster, serving: Name) -> None:
    """First the engine alone: its server starts it again and counts it. Then the server: the kubelet starts it again."""
    chat = serving("chat")
    chat.create(cpu_spec())
    chat.wait_settled(1)
    pod = chat.pod()
    url = address(pod)
    assert completes(cluster, url)
    server, engine = processes_of(pod)[0], processes_of(pod)[-1]
    assert server != engine
    kill(engine)
    eventually(lambda: metric(cluster, url, "trimtab_engine_restarts_total") == 1, 30, "the restart to be counted")
    eventually(lambda: completes(cluster, url), 60, "the engine to answer again")
    assert processes_of(pod)[0] == server
    chat.wait_settled(1)
    assert restarts(chat.pod()) == 0

    kill(server)
    eventually(lambda: restarts(chat.pod()) == 1, 30, "the kubelet to start the container again")
    chat.wait_settled(1)
    assert chat.pod()["metadata"]["uid"] == pod["metadata"]["uid"]
    eventually(lambda: completes(cluster, url), 60, "the server to answer again")
    assert chat.condition() | {"lastTransitionTime": "", "message": ""} == {
        "type": "Ready",
        "status": "True",
        "reason": "AllReady",
        "message": "",
        "observedGeneration": chat.get()["metadata"]["generation"],
        "lastTransitionTime": "",
    }


def test_a_first_deployment_whose_image_is_missing(serving: Name) -> None:
    chat = serving("chat")
    chat.create(cpu_spec(image=MISSING))
    told = chat.wait_condition("ImageUnavailable")
    assert told["status"] == "False"
    assert MISSING in told["message"]
    assert len(chat.pods()) == 1
    chat.patch(explicit=cpu_spec()["explicit"])
    chat.wait_settled(1)


def test_an_update_to_a_missing_image_leaves_the_old_replica_answering(
    cluster: Cluster, rest: Rest, serving: Name
) -> None:
    chat = serving("chat")
    chat.create(cpu_spec())
    chat.wait_settled(1)
    old = chat.pod()
    service = chat.owned()["service"]
    url = f"http://{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"
    with PodHistory(rest, chat.namespace, chat.name, most=2, least=1):
        chat.patch(explicit=cpu_spec(image=MISSING)["explicit"])
        told = chat.wait_condition("RolloutStalled", kind="Progressing")
        assert (told["status"], MISSING in told["message"]) == ("False", True)
        assert chat.condition()["status"] == "True"
        assert completes(cluster, url)
        assert {p["metadata"]["uid"] for p in chat.pods() if ready(p)} == {old["metadata"]["uid"]}
        chat.patch(explicit=cpu_spec(batched_tokens=128)["explicit"])
        chat.wait_settled(1)
    assert chat.pod()["metadata"]["uid"] != old["metadata"]["uid"]
    assert completes(cluster, url)
    assert "trimtab_engine" in ask(cluster, f"{address(chat.pod())}/metrics")


def test_no_request_is_lost_in_a_rollout_and_a_scale_down(cluster: Cluster, namespace: str) -> None:
    seen = roll(cluster, namespace, duration_s=40.0, rate_per_s=2.0)
    assert seen.failed == []
    assert len(seen.records) == 80
    assert seen.revisions[0] != seen.revisions[1]
