"""What each command of the command line does."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from devcluster import build as build_programs
from devcluster import down as removal
from devcluster import external, imageload, images, install, network, plan, preflight, processes, versions
from devcluster import pins as pins_of_modules
from devcluster.cluster import Cluster
from devcluster.errors import DevclusterError
from devcluster.lock import exclusive
from devcluster.paths import STATE_ROOT, cache_root, write_atomic
from devcluster.plan import Plan
from devcluster.progress import Progress
from devcluster.steps import Step, run_all
from devcluster.up import cluster_steps

Note = Callable[[str], None]
DEFAULT_NODES = 2
DEFAULT_KWOK_NODES = 300
DEFAULT_GRACE_S = 600  # shorter periods make nodes flap while this machine is busy
COLD_S = 900
WARM_S = 60


def make_plan(options: argparse.Namespace) -> Plan:
    """The remembered plan with the options' changes, or a new one on free addresses."""
    pins = versions.load(options.kubernetes)
    known = plan.load(options.name)
    if known is not None:
        kubernetes = options.kubernetes or known.kubernetes_minor
        return plan.resize(
            known,
            known.real_nodes if options.nodes is None else options.nodes,
            known.kwok_nodes if options.kwok_nodes is None else options.kwok_nodes,
            known.node_monitor_grace_s if options.node_monitor_grace is None else options.node_monitor_grace,
            kubernetes,
        )
    real = DEFAULT_NODES if options.nodes is None else options.nodes
    simulated = DEFAULT_KWOK_NODES if options.kwok_nodes is None else options.kwok_nodes
    plan.check_sizes(real, simulated)
    others = [other for other in plan.known_clusters() if other.name != options.name]
    links = [*network.taken_networks(), *plan.links(others)]
    ports = plan.choose_ports([port for other in others for port in other.ports.values()], network.port_is_free)
    grace = DEFAULT_GRACE_S if options.node_monitor_grace is None else options.node_monitor_grace
    return Plan(options.name, pins.minor, plan.choose_link(options.name, links), ports, real, simulated, grace)


def up(options: argparse.Namespace) -> None:
    """`devcluster up`."""
    if options.kubeconfig is not None or options.registry is not None:
        external.up(options.kubeconfig, options.registry)
        return
    preflight.require_host(STATE_ROOT)
    progress = Progress()
    try:
        with exclusive(options.name):
            _up(options, progress)
    finally:
        progress.close()


def _up(options: argparse.Namespace, progress: Progress) -> None:
    started_s = time.time()
    first_start = not (cache_root() / "bin").exists() and not (cache_root() / "images").exists()
    with exclusive("plans", wait=True):  # two clusters must not choose the same link or port
        wanted = make_plan(options)
        plan.save(wanted)
    pins = versions.load(wanted.kubernetes_minor)
    cluster = Cluster(wanted, build_programs.binary_dir(pins))
    progress.say(announcement(wanted, pins, bool(build_programs.missing(pins)), not options.no_install))
    todo = [
        Step("packages", lambda note: preflight.install_packages(pins, note)),
        Step("programs", lambda note: build_programs.build_all(pins, note), ("packages",)),
        *cluster_steps(cluster),
    ]
    if not options.no_install:
        todo += install.steps(cluster, pins)
    try:
        run_all(todo, progress)
        outcome = "up"
    except BaseException:
        outcome = "failed"
        progress.say(
            f"failed after {progress.elapsed_s():.0f} s; logs: {wanted.state / 'logs'} and {cache_root()}/*.log"
        )
        raise
    finally:
        record = {
            "outcome": outcome,
            "started_unix_s": round(started_s, 1),
            "total_s": round(progress.elapsed_s(), 2),
            "phases_s": progress.durations_s(),
        }
        write_atomic(wanted.state / "timing.json", json.dumps(record, indent=1) + "\n")
        if first_start and outcome == "up" and not options.no_install:
            write_atomic(cache_root() / "first-start.json", json.dumps(record, indent=1) + "\n")
    progress.say(f"cluster {wanted.name} is up after {progress.elapsed_s():.0f} s: KUBECONFIG={wanted.kubeconfig}")
    if not options.no_install:
        progress.say(install.things_to_try(cluster, install.served_model(install.target_of(cluster))))


def announcement(wanted: Plan, pins: versions.Versions, cold: bool, installing: bool) -> str:
    """What `up` is about to do, and how long it takes."""
    parts = [
        f"Starting cluster {wanted.name!r} on this machine: Kubernetes {pins.kubernetes}, {wanted.real_nodes} real and "
        f"{wanted.kwok_nodes} simulated nodes"
        + (", Trimtab from its chart, one sample deployment." if installing else "."),
        f"It lives in a network namespace of its own; files go to {wanted.state} and {cache_root()}.",
    ]
    if cold:
        parts.append(
            f"The first time takes about {COLD_S // 60} minutes on two cores: Kubernetes is compiled from its Go modules "
            "and the images are built. Later starts take less than a minute."
        )
    else:
        parts.append(
            f"The programs are built already: this takes less than {WARM_S} s, longer where images must be built."
        )
    return "\n".join(parts)


def check_host(_: argparse.Namespace) -> None:
    """`devcluster preflight`."""
    preflight.require_host(STATE_ROOT)
    print("this machine can run a cluster")


def down(options: argparse.Namespace) -> None:
    """`devcluster down`."""
    preflight.require_host(STATE_ROOT, room=False)
    progress = Progress()
    try:
        with exclusive(options.name):
            found = plan.load(options.name) or plan.for_removal(options.name)
            if not removal.leftovers(found):
                progress.say(f"no cluster {options.name!r} on this machine")
                if options.purge:
                    removal.purge_image_stores(found)
                return
            step = Step("stop", lambda note: removal.remove(found, note, options.purge))
            run_all([step], progress)
            left = removal.leftovers(found)
            if left:
                raise DevclusterError(f"cluster {options.name} left behind: {'; '.join(left)}")
            progress.say(f"cluster {options.name} is gone; the build cache stays for the next start")
    finally:
        progress.close()


def status(options: argparse.Namespace) -> int:
    """`devcluster status`."""
    cluster = Cluster.open(options.name)
    running = [process for process in processes.scan(cluster.plan.state) if process.is_main]
    memory = processes.usage(running)
    rows = [{"component": name, "running": name in memory, "rss_bytes": memory.get(name)} for name in cluster.specs()]
    healthy = cluster.api_ready() and all(row["running"] for row in rows)
    document = {
        "name": cluster.plan.name,
        "healthy": healthy,
        "kubernetes": cluster.plan.kubernetes_minor,
        "kubeconfig": str(cluster.kubeconfig),
        "api_url": cluster.plan.api_url,
        "forwards": {name: f"127.0.0.1:{port}" for name, port in cluster.plan.ports.items()},
        "components": rows,
    }
    if options.output == "json":
        print(json.dumps(document, indent=1))
    else:
        print(f"cluster {cluster.plan.name}: {'healthy' if healthy else 'NOT healthy (make up repairs it)'}")
        print(f"kubeconfig {cluster.kubeconfig}, API server {cluster.plan.api_url}")
        for row in rows:
            size = f"{row['rss_bytes'] / 2**20:6.0f} MiB" if row["rss_bytes"] else "   stopped"  # type: ignore[operator]
            print(f"  {row['component']:28}{size}")
    return 0 if healthy else 1


def build(options: argparse.Namespace) -> None:
    """`devcluster build`."""
    pins = versions.load(options.kubernetes)
    progress = Progress()
    todo = [Step("programs", lambda note: build_programs.build_all(pins, note))]
    if options.images:
        preflight.require_host(STATE_ROOT)
        todo.append(Step("packages", lambda note: preflight.install_packages(pins, note)))
        todo += install.image_steps(pins, {})
    try:
        run_all(todo, progress)
    finally:
        progress.close()


def tidy(_: argparse.Namespace) -> None:
    """`devcluster tidy`."""
    progress = Progress()
    try:
        run_all([Step("tidy", lambda note: pins_of_modules.tidy(versions.load(), note))], progress)
    finally:
        progress.close()


def load_image(options: argparse.Namespace) -> None:
    """`devcluster load-image`: names of our images are built first, anything else is an archive's path."""
    cluster = Cluster.open(options.name)
    pins = versions.load(cluster.plan.kubernetes_minor)
    progress = Progress()

    def one(word: str) -> Step:
        def body(note: Note) -> str:
            if word not in images.IMAGES:
                for node in cluster.nodes:
                    imageload.load_archive(node, Path(word))
                return "imported"
            reference = images.build(images.IMAGES[word], images.base_image(pins, note), note)
            imageload.load([reference], cluster.nodes, note)
            return reference

        return Step(word, body)

    try:
        for word in options.images:
            run_all([one(word)], progress)
    finally:
        progress.close()


def nodes(options: argparse.Namespace) -> None:
    """`devcluster nodes`."""
    for node in Cluster.open(options.name).nodes:
        print(f"{node.name}\tkubelet :{node.kubelet_port}\t{node.socket}\tpods {node.pod_subnet}")


def logs(options: argparse.Namespace) -> None:
    """`devcluster logs COMPONENT`."""
    found = Cluster.open(options.name)
    if not (found.plan.state / "logs" / f"{options.component}.log").exists():
        names = ", ".join(sorted(found.specs()))
        raise DevclusterError(f"no log of {options.component!r}: choose one of {names}")
    print(processes.tail(found.plan.state, options.component, options.lines))


def env(options: argparse.Namespace) -> None:
    """`devcluster env`."""
    found = Cluster.open(options.name)
    print(f"export KUBECONFIG={shlex.quote(str(found.kubeconfig))}")
    print(f"export PATH={shlex.quote(str(found.programs))}:$PATH")
