"""A second cluster beside whatever runs: started, broken in several ways, repaired, taken down without a trace."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster import cgroups, containers, down, mounts, network, plan, preflight, processes
from devcluster.cluster import Cluster, wait_for
from devcluster.errors import DevclusterError
from devcluster.paths import STATE_ROOT, TREE

NAME = "t-devcluster"
UP = ["up", "--name", NAME, "--nodes", "1", "--kwok-nodes", "7", "--node-monitor-grace", "20", "--no-install"]

pytestmark = pytest.mark.cluster


def devcluster(*arguments: str) -> str:
    argv = [sys.executable, "-m", "devcluster", *arguments]
    done = subprocess.run(argv, cwd=TREE, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def host_rules() -> set[str]:
    """Packet filter rules of the host: no cluster may add one, this or another."""
    lines = subprocess.check_output(["iptables-save"], text=True).splitlines()
    return {line for line in lines if line.startswith("-")}


@pytest.fixture(scope="module")
def rules_before() -> set[str]:
    try:
        preflight.require_host(STATE_ROOT)
    except DevclusterError as lacking:
        pytest.skip(str(lacking))
    devcluster("down", "--name", NAME, "--purge")
    return host_rules()


@pytest.fixture(scope="module")
def cluster(rules_before: set[str]) -> Iterator[Cluster]:
    devcluster(*UP)
    yield Cluster.open(NAME)
    devcluster("down", "--name", NAME, "--purge")


@pytest.fixture(autouse=True)
def healthy(cluster: Cluster) -> None:
    devcluster(*UP)
    assert json.loads(devcluster("status", "--name", NAME, "-o", "json"))["healthy"] is True


def run_pod(cluster: Cluster, name: str) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {
            "nodeSelector": {"trimtab.dev/node": "real"},
            "containers": [{"name": "c", "image": "localhost/trimtab/pause:1", "imagePullPolicy": "Never"}],
        },
    }
    cluster.apply([pod])
    cluster.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")


def test_the_first_pod_gets_an_address_of_its_node(cluster: Cluster) -> None:
    run_pod(cluster, "first")

    status = cluster.get("pod", "first")["status"]

    assert status["podIP"].startswith("10.244.0.")
    assert status["hostIP"] == cluster.plan.cluster_address


def test_service_addresses_answer_in_the_namespace_and_are_not_routed_from_the_host(cluster: Cluster) -> None:
    script = "import socket; print(socket.create_connection(('10.96.0.1', 443), 5).getpeername()[0])"
    inside = subprocess.check_output([*network.enter(cluster.plan), sys.executable, "-c", script], text=True)

    assert inside.strip() == "10.96.0.1"
    route = subprocess.run(["ip", "route", "get", "10.96.0.1"], capture_output=True, text=True).stdout
    assert cluster.plan.host_link not in route


def test_an_anonymous_request_to_a_kubelet_is_refused(cluster: Cluster) -> None:
    url = f"https://{cluster.plan.cluster_address}:{cluster.nodes[0].kubelet_port}/pods"
    anyone = ssl.create_default_context()
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, context=anyone, timeout=10)

    assert refused.value.code == 401
    refused.value.close()


def test_nothing_listens_on_the_host_but_the_forwards(cluster: Cluster) -> None:
    listening = subprocess.check_output(["ss", "-Hltnp"], text=True)
    ours = {process.pid for process in processes.scan(cluster.plan.state)}

    addresses = {line.split()[3] for line in listening.splitlines() if any(f"pid={pid}," in line for pid in ours)}

    assert addresses == {f"127.0.0.1:{port}" for port in cluster.plan.ports.values()}


def test_a_second_up_leaves_every_process_alone(cluster: Cluster) -> None:
    first = {p.pid for p in processes.scan(cluster.plan.state) if p.is_main}

    devcluster(*UP)

    assert {p.pid for p in processes.scan(cluster.plan.state) if p.is_main} == first


def test_up_repairs_a_cluster_whose_processes_were_all_killed(cluster: Cluster) -> None:
    run_pod(cluster, "survivor")
    for process in processes.scan(cluster.plan.state):
        processes.send(process, signal.SIGKILL)

    devcluster(*UP)

    cluster.kubectl("wait", "--for=condition=Ready", "pod/survivor", "--timeout=90s")


def test_up_after_a_reboot_keeps_the_objects(cluster: Cluster) -> None:
    cluster.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    # What a reboot does: processes, namespace, mounts and cgroups are gone, files stay.
    processes.end(processes.scan(cluster.plan.state), grace_s=1)
    cgroups.remove(cluster.plan.cgroup)
    mounts.unmount_below(cluster.plan.state)
    network.remove(cluster.plan)
    cluster.plan.netns_path.touch()

    devcluster(*UP)

    assert cluster.get("configmap", "kept")["data"] == {"a": "b"}
    run_pod(cluster, "after-reboot")


def test_a_frozen_component_is_thawed(cluster: Cluster) -> None:
    cluster.freeze("kube-scheduler")

    devcluster(*UP)

    wait_for(lambda: cluster.find("kube-scheduler").state not in "T", 5, "the scheduler to run")


def test_a_lost_kubelet_makes_its_node_not_ready_and_back(cluster: Cluster) -> None:
    def ready() -> str:
        conditions = cluster.get("node", "node-1")["status"]["conditions"]
        return next(c["status"] for c in conditions if c["type"] == "Ready")

    cluster.kill("kubelet-node-1")
    wait_for(lambda: ready() == "Unknown", 60, "node-1 to be lost")
    cluster.start("kubelet-node-1")
    wait_for(lambda: ready() == "True", 60, "node-1 to be back")


def test_compaction_ends_old_watches_with_gone(cluster: Cluster) -> None:
    collection = "/api/v1/namespaces/default/configmaps"
    old = json.loads(cluster.kubectl("get", "--raw", collection))["metadata"]["resourceVersion"]
    cluster.kubectl("create", "configmap", "newer")
    cluster.compact()
    # The API server's own cache would still serve the old revision; a restart empties it.
    cluster.restart("kube-apiserver")

    answer = cluster.kubectl("get", "--raw", f"{collection}?watch=1&resourceVersion={old}&timeoutSeconds=2")

    assert '"code":410' in answer.replace(" ", "")


def test_an_interrupted_up_is_finished_by_the_next(cluster: Cluster) -> None:
    devcluster("down", "--name", NAME)
    argv = [sys.executable, "-m", "devcluster", *UP]
    for patience_s in (0.6, 1.5, 3.0):
        started = subprocess.Popen(argv, cwd=TREE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(patience_s)  # the fault comes at an arbitrary moment: any moment must do
        started.kill()
        started.wait()

    devcluster(*UP)

    assert json.loads(devcluster("status", "--name", NAME, "-o", "json"))["healthy"] is True


def test_two_ups_of_one_name_do_not_race(cluster: Cluster) -> None:
    argv = [sys.executable, "-m", "devcluster", *UP]
    both = [subprocess.Popen(argv, cwd=TREE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outcomes = sorted((p.communicate(timeout=120)[1], p.returncode) for p in both)

    codes = [code for _, code in outcomes]
    assert codes.count(0) >= 1
    assert all("is being changed by process" in text for text, code in outcomes if code != 0)


def test_down_works_without_a_plan(cluster: Cluster) -> None:
    (cluster.plan.state / "plan.json").write_text("{")

    devcluster("down", "--name", NAME)

    assert down.leftovers(plan.for_removal(NAME)) == []


def test_down_leaves_nothing(cluster: Cluster, rules_before: set[str]) -> None:
    run_pod(cluster, "doomed")
    mine = cluster.plan
    node = cluster.nodes[0]
    identities = subprocess.check_output([*node.ctr(), "containers", "list", "-q"], text=True).split()
    sockets = [containers.shim_socket(node.socket, identity) for identity in identities]
    assert any(path.exists() for path in sockets)

    devcluster("down", "--name", NAME, "--purge")

    assert down.leftovers(mine) == []
    assert not [path for path in sockets if path.exists()]
    assert not mine.netns_path.exists()
    assert not list(Path("/var/lib/cni/results").glob(f"{mine.netns}-*"))
    assert not node.image_store.exists()
    assert host_rules() == rules_before
    devcluster("down", "--name", NAME)
