"""A node's containerd: start it, and clear out the containers of a cluster that is gone.

The image store outlives clusters. What an unclean end left in it (`.in-use` says so) must go before the Kubernetes
plug-in reads it, or a new kubelet would inherit the pods of an old cluster.
"""

from __future__ import annotations

import contextlib

from devcluster import nodes, processes
from devcluster.cluster import wait_for
from devcluster.errors import DevclusterError
from devcluster.nodes import Node
from devcluster.paths import write_atomic
from devcluster.shell import run, succeeds


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
    processes.ensure(state, spec)
    _wait(node)


def remove_all(node: Node) -> None:
    """End and delete every container, where containerd answers; the mark of use goes when none is left."""
    if not succeeds([*node.ctr(), "version"]):
        return
    for _ in range(3):  # a container that is just being made appears in the second look
        identities = run([*node.ctr(), "containers", "list", "-q"]).split()
        if not identities:
            (node.image_store / ".in-use").unlink(missing_ok=True)
            return
        with contextlib.suppress(DevclusterError):  # some have no task
            run([*node.ctr(), "tasks", "delete", "--force", *identities], timeout_s=20)
        succeeds([*node.ctr(), "containers", "delete", *identities])


def _wait(node: Node) -> None:
    wait_for(lambda: succeeds([*node.ctr(), "version"]), 60, f"containerd of {node.name}", pause_s=0.05)
