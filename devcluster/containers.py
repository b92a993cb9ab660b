"""A node's containerd: start it, and clear out the containers of a cluster that is gone.

The image store outlives clusters. What an unclean end left in it (`.in-use` says so) must go before the Kubernetes
plug-in reads it, or a new kubelet would inherit the pods of an old cluster.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from pathlib import Path

from devcluster import nodes, processes
from devcluster.cluster import wait_for
from devcluster.errors import DevclusterError
from devcluster.nodes import Node
from devcluster.paths import write_atomic
from devcluster.shell import run, succeeds

SHIM_SOCKETS = Path("/run/containerd/s")  # one folder for every containerd of the machine


def start_runtime(node: Node) -> None:
    """Have containerd answering on the node's socket."""
    state = node.plan.state
    spec = nodes.containerd_spec(node)
    in_use = node.image_store / ".in-use"
    joined = node.folder / "joined"  # this cluster's own mark: its pods are kept over a restart
    if in_use.exists() and not joined.exists():
        config = node.folder / "containerd-cleaning.toml"
        write_atomic(config, nodes.containerd_config(node, with_kubernetes=False))
        argv = tuple(str(config) if word.endswith("containerd.toml") else word for word in spec.argv)
        cleaner = processes.ensure(state, processes.Spec(spec.name, argv, spec.prefix))
        _wait(node)
        remove_all(node)
        processes.end([cleaner])
    in_use.touch()
    joined.touch()
    was_running = processes.find(state, spec.name) is not None
    processes.ensure(state, spec)
    _wait(node)
    if not was_running:
        sweep_sockets(node, _containers(node))


def remove_all(node: Node) -> None:
    """End and delete every container, where containerd answers; the mark of use goes when none is left."""
    if not succeeds([*node.ctr(), "version"]):
        return
    seen: list[str] = []
    for _ in range(3):  # a container that is just being made appears in the second look
        identities = _containers(node)
        if not identities:
            (node.image_store / ".in-use").unlink(missing_ok=True)
            break
        seen += identities
        with contextlib.suppress(DevclusterError):  # some have no task
            run([*node.ctr(), "tasks", "delete", "--force", *identities], timeout_s=20)
        succeeds([*node.ctr(), "containers", "delete", *identities])
    sweep_sockets(node, seen)


def sweep_sockets(node: Node, identities: list[str]) -> None:
    """Delete the sockets of this node's shims that were killed; they lie in a folder that all clusters share."""
    paths = {shim_socket(node.socket, identity) for identity in identities}
    for file in (node.folder / "run" / "io.containerd.runtime.v2.task" / "k8s.io").glob("*/address"):
        paths.add(Path(file.read_text(encoding="utf-8").removeprefix("unix://")))
    for path in paths:
        if path.parent == SHIM_SOCKETS and path.exists() and not _answers(path):
            path.unlink(missing_ok=True)


def shim_socket(containerd_socket: Path, identity: str) -> Path:
    """Where containerd puts the socket of a container's shim (`SocketAddress` in its runtime/v2/shim package)."""
    return SHIM_SOCKETS / hashlib.sha256(f"{containerd_socket}/k8s.io/{identity}".encode()).hexdigest()


def _containers(node: Node) -> list[str]:
    return run([*node.ctr(), "containers", "list", "-q"]).split()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _wait(node: Node) -> None:
    wait_for(lambda: succeeds([*node.ctr(), "version"]), 60, f"containerd of {node.name}", pause_s=0.05)
