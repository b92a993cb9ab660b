"""The cluster with its installed operator scaled away, the engine image, operators of our own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster.cluster import Cluster
from devcluster.errors import DevclusterError
from tests.integration.conftest import ROOT
from tests.integration.faults.local_operator import LocalOperator
from tests.integration.faults.rest import Rest, eventually
from tests.integration.faults.serving_objects import GpuNodes, Serving

_INSTALLED = "/apis/apps/v1/namespaces/trimtab-system/deployments/trimtab-operator"


@pytest.fixture(scope="package")
def cluster(cluster_env: dict[str, str]) -> Cluster:
    """One whose processes may be killed: a devcluster of ours."""
    try:
        return Cluster.open(os.environ.get("TRIMTAB_CLUSTER", "dev"))
    except DevclusterError as lacking:
        pytest.skip(str(lacking))


@pytest.fixture(scope="package")
def rest(cluster: Cluster) -> Iterator[Rest]:
    talking = Rest(cluster)
    yield talking
    talking.close()


@pytest.fixture(scope="package")
def images(rest: Rest, cluster: Cluster) -> Iterator[dict[str, str]]:
    """Engine images. While they are in use no other operator runs: an installed one is scaled to zero and back."""
    installed = rest.find(_INSTALLED)
    if installed is None:
        yield {"openvino": _engine_image(cluster)}
        return
    containers = installed["spec"]["template"]["spec"]["containers"]
    variables = {v["name"]: v.get("value", "") for c in containers for v in c.get("env", [])}
    replicas = installed["spec"]["replicas"]
    rest.merge(_INSTALLED, {"spec": {"replicas": 0}})
    try:
        eventually(lambda: not _operator_pods(rest), 60, "the installed operator to leave")
        yield json.loads(variables["TRIMTAB_ENGINE_IMAGES"])
    finally:
        rest.merge(_INSTALLED, {"spec": {"replicas": replicas}})
        eventually(
            lambda: rest.get(_INSTALLED)["status"].get("readyReplicas", 0) == replicas, 120, "the operator to be back"
        )


def _operator_pods(rest: Rest) -> list[Any]:
    selector = "app.kubernetes.io%2Fname%3Dtrimtab,app.kubernetes.io%2Fcomponent%3Doperator"
    return rest.items(f"/api/v1/namespaces/trimtab-system/pods?labelSelector={selector}")


def _engine_image(cluster: Cluster) -> str:
    """The engine image that the nodes have, else a new one."""
    listing = subprocess.run(
        [*cluster.nodes[0].ctr(), "images", "list", "-q"], text=True, capture_output=True, check=True
    )
    known = [line for line in listing.stdout.split() if "/engine-openvino:" in line]
    if known:
        return known[-1]
    command = [sys.executable, "-m", "devcluster", "load-image", "--name", cluster.plan.name, "engine-openvino"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=600, check=True)
    return next(word for word in (done.stdout + done.stderr).split() if "/engine-openvino:" in word)


@pytest.fixture
def make_operator(cluster: Cluster, images: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., LocalOperator]]:
    """Operators that end with the test; not started."""
    made: list[LocalOperator] = []

    def make(kubeconfig: Path = cluster.kubeconfig, **options: Any) -> LocalOperator:
        made.append(LocalOperator(kubeconfig, images, tmp_path / f"operator-{len(made)}.log", **options))
        return made[-1]

    yield make
    for operator in made:
        operator.stop()
        sys.stdout.write(f"--- {operator.log.name}\n{operator.tail(60)}\n")


@pytest.fixture(scope="module")
def operator(
    cluster: Cluster, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalOperator]:
    """One operator for the tests of a module; it must live through all of them without one unexpected error."""
    running = LocalOperator(cluster.kubeconfig, images, tmp_path_factory.mktemp("operator") / "operator.log")
    running.start()
    running.wait_ready()
    first = running.pid
    yield running
    alive = running.running and running.pid == first
    running.stop()
    text = running.text()
    assert alive, text[-5000:]
    assert "Traceback" not in text, text[text.index("Traceback") :][:5000]


@pytest.fixture
def serving(rest: Rest, namespace: str) -> Iterator[Callable[[str], Serving]]:
    """Names deployments in the test's namespace. They are deleted before their operator goes."""
    named: list[Serving] = []

    def name(wanted: str) -> Serving:
        named.append(Serving(rest, namespace, wanted))
        return named[-1]

    yield name
    for deployment in named:
        deployment.delete()


@pytest.fixture
def gpu_nodes(rest: Rest) -> Iterator[Callable[..., GpuNodes]]:
    """Makes pools of simulated nodes that go with the test."""
    made: list[GpuNodes] = []

    def make(nodes: int, gpus: int = 8) -> GpuNodes:
        made.append(GpuNodes(rest, nodes, gpus))
        made[-1].create()
        return made[-1]

    yield make
    for nodes in made:
        nodes.delete()
