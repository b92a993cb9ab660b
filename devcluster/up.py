"""The steps of `up` that make a cluster: from an empty machine to Ready nodes."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from devcluster import containers, credentials, fleet, network, nodes, processes
from devcluster.archive import single_program_image
from devcluster.cluster import Cluster, Ended, wait_for
from devcluster.components import corefile, dns_objects
from devcluster.paths import write_atomic
from devcluster.shell import run
from devcluster.steps import Step

Note = Callable[[str], None]


def cluster_steps(cluster: Cluster) -> list[Step]:
    """Steps from built programs to a cluster whose real and simulated nodes are Ready."""
    plan = cluster.plan

    def link(_: Note) -> str:
        network.ensure(plan)
        credentials.ensure(plan)
        write_atomic(plan.state / "kubectl", kubectl_script(cluster), 0o755)
        return plan.netns

    def etcd(_: Note) -> None:
        cluster.start("etcd")

    def api_server(_: Note) -> str:
        cluster.start("kube-apiserver")
        patience_s = 120
        wait_for(
            lambda: cluster.api_ready() or _all_alive(cluster, "etcd", "kube-apiserver"), patience_s, "the API server"
        )
        return plan.api_url

    def controllers(_: Note) -> None:
        cluster.start("kube-controller-manager")
        cluster.start("kube-scheduler")
        cluster.start("kube-proxy")

    def dns(_: Note) -> None:
        write_atomic(plan.state / "coredns" / "Corefile", corefile(plan))
        cluster.apply(dns_objects(plan))
        cluster.start("coredns")

    def forwards(_: Note) -> str:
        cluster.start("forwarder")
        return ", ".join(f"{name} 127.0.0.1:{port}" for name, port in plan.ports.items())

    def simulated(note: Note) -> str:
        cluster.start("kwok")
        return fleet.ensure(cluster, note)

    steps = [
        Step("network and credentials", link, ("programs",)),
        Step("etcd", etcd, ("network and credentials",)),
        Step("API server", api_server, ("etcd",)),
        Step("controllers", controllers, ("API server",)),
        Step("cluster DNS", dns, ("API server",)),
        Step("forwards", forwards, ("network and credentials",)),
        Step("simulated nodes", simulated, ("controllers",)),
    ]
    for node in cluster.nodes:
        steps += _node_steps(cluster, node)
    return steps


def _node_steps(cluster: Cluster, node: nodes.Node) -> list[Step]:
    def runtime(_: Note) -> None:
        nodes.prepare(node)
        containers.start_runtime(node)
        ensure_pause_image(cluster, node)

    def register(_: Note) -> str:
        cluster.start(f"kubelet-{node.name}")
        wait_for(lambda: _ready(cluster, node.name), 120, f"{node.name} to be Ready", pause_s=0.3)
        cluster.apply([node_labels(node.name)])
        return "Ready"

    return [
        Step(f"{node.name} runtime", runtime, ("network and credentials",)),
        Step(f"{node.name}", register, ("API server", f"{node.name} runtime")),
    ]


def _all_alive(cluster: Cluster, *components: str) -> bool:
    """False while they live. Raises Ended with the log when one has ended, as waiting longer is of no use."""
    for component in components:
        if processes.find(cluster.plan.state, component) is None:
            raise Ended(f"{component} ended:\n{processes.tail(cluster.plan.state, component)}")
    return False


def kubectl_script(cluster: Cluster) -> str:
    """A `kubectl` that speaks to this cluster wherever it is called from."""
    program = shlex.quote(str(cluster.programs / "kubectl"))
    return f'#!/bin/sh\nexec {program} --kubeconfig={shlex.quote(str(cluster.kubeconfig))} "$@"\n'


def node_labels(name: str) -> dict[str, object]:
    """Labels that a kubelet may not give itself, among them the CPU features NFD would find."""
    with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as file:
        flags = next((set(line.split(":", 1)[1].split()) for line in file if line.startswith("flags")), set())
    labels = {"node-role.kubernetes.io/worker": ""}
    for flag, feature in {"avx2": "AVX2", "avx512f": "AVX512F", "amx_tile": "AMXTILE", "amx_bf16": "AMXBF16"}.items():
        if flag in flags:
            labels[f"feature.node.kubernetes.io/cpu-cpuid.{feature}"] = "true"
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}


def ensure_pause_image(cluster: Cluster, node: nodes.Node) -> None:
    """Import the image every pod's sandbox uses: one layer with one static program."""
    listed = run([*node.ctr(), "images", "list", "-q", f"name=={nodes.PAUSE_IMAGE}"])
    if nodes.PAUSE_IMAGE in listed:
        return
    archive = cluster.plan.state / f"pause-{node.name}.tar"
    program = (cluster.programs / "pause").read_bytes()
    archive.write_bytes(single_program_image(nodes.PAUSE_IMAGE, program, "/pause"))
    run([*node.ctr(), "images", "import", archive])
    archive.unlink()


def _ready(cluster: Cluster, name: str) -> bool:
    template = '{.status.conditions[?(@.type=="Ready")].status}'
    return cluster.kubectl("get", "node", name, "-o", f"jsonpath={template}") == "True"
