"""The command line: `python3 -m devcluster COMMAND`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from devcluster import lifecycle, plan
from devcluster.errors import DevclusterError

EXAMPLES = """examples:
  python3 -m devcluster up                          cluster, Trimtab and the sample on this machine
  python3 -m devcluster up --no-install             the cluster alone
  python3 -m devcluster up --name t-me --nodes 1 --kwok-nodes 20 --no-install
  python3 -m devcluster up --kubeconfig ~/.kube/config --registry registry.example.com/team
  python3 -m devcluster status -o json              what runs, on which addresses
  eval "$(python3 -m devcluster env)"               KUBECONFIG and PATH for kubectl and helm
  python3 -m devcluster down                        stop and remove everything
"""


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "up": lifecycle.up,
    "down": lifecycle.down,
    "preflight": lifecycle.check_host,
    "status": lifecycle.status,
    "build": lifecycle.build,
    "tidy": lifecycle.tidy,
    "nodes": lifecycle.nodes,
    "load-image": lifecycle.load_image,
    "logs": lifecycle.logs,
    "env": lifecycle.env,
}


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    top = argparse.ArgumentParser(
        prog="python3 -m devcluster",
        description="A real Kubernetes cluster on this machine, in a network namespace of its own.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    default_name = os.environ.get("TRIMTAB_CLUSTER", "dev")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "--name", default=default_name, help="cluster name (TRIMTAB_CLUSTER; default: %(default)s)"
        )
        return command

    up = add("up", "Start the cluster, install Trimtab into it and deploy the sample.")
    up.add_argument("--nodes", type=int, default=None, help="real nodes (default 2)")
    up.add_argument("--kwok-nodes", type=int, default=None, help="simulated nodes (default 300)")
    up.add_argument("--kubernetes", default=None, metavar="MINOR", help="Kubernetes minor (default: the pinned one)")
    up.add_argument(
        "--node-monitor-grace",
        type=int,
        default=None,
        metavar="SECONDS",
        help="silence after which a node counts as lost (default 600; tests of node loss use 20)",
    )
    up.add_argument("--no-install", action="store_true", help="stop once the nodes are Ready")
    up.add_argument("--kubeconfig", default=None, help="install into this cluster instead of starting one")
    up.add_argument(
        "--registry",
        default=None,
        metavar="HOST/PREFIX",
        help="with --kubeconfig: where that cluster pulls the images from",
    )

    add("preflight", "Say whether this machine can run a cluster, and what it lacks.")
    down = add("down", "Stop the cluster and remove every process, mount, namespace, cgroup and rule it made.")
    down.add_argument("--purge", action="store_true", help="delete the nodes' image stores in the cache too")
    status = add("status", "What runs, where it listens and how much memory it takes.")
    status.add_argument("-o", "--output", choices=("text", "json"), default="text")
    build = add("build", "Build the cluster's programs (and with --images the images) into the cache.")
    build.add_argument("--kubernetes", default=None, metavar="MINOR", help="which minor (default: the pinned one)")
    build.add_argument("--images", action="store_true", help="build the images too")
    add("tidy", "Carry versions.toml into the Go modules' go.mod and go.sum, for maintainers.")
    add("nodes", "List the real nodes: kubelet, containerd socket, pod subnet.")
    load = add(
        "load-image", "Import image archives (docker-archive or oci-archive), or build and load the named images."
    )
    load.add_argument(
        "images", nargs="+", help="trimtab, engine-openvino, postgresql, redis, or the path of an archive"
    )
    logs = add("logs", "Print a component's log.")
    logs.add_argument("component", help="etcd, kube-apiserver, kubelet-node-1, ...")
    logs.add_argument("--lines", type=int, default=200)
    add("env", "Print shell lines that point kubectl and helm at the cluster.")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = parser().parse_args(argv)
    try:
        plan.check_name(options.name)
        return int(COMMANDS[options.command](options) or 0)
    except DevclusterError as error:
        print(f"devcluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndevcluster: interrupted; run the same command again to go on, or `make down`", file=sys.stderr)
        return 130
