"""The cluster's network namespace, and the one link between it and the host."""

from __future__ import annotations

import ipaddress
import json
import socket
from pathlib import Path

from devcluster.plan import Plan
from devcluster.shell import run, succeeds


def taken_networks() -> list[ipaddress.IPv4Network]:
    """Every IPv4 network this machine has an address in or a route to, the default route left out."""
    networks = []
    for route in json.loads(run(["ip", "-4", "-j", "route", "show", "table", "all"])):
        destination = str(route.get("dst", "default"))
        if destination != "default":
            networks.append(ipaddress.IPv4Network(destination, strict=False))
    return [network for network in networks if network.prefixlen > 0]


def port_is_free(port: int) -> bool:
    """Whether 127.0.0.1:`port` can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def ensure(plan: Plan) -> None:
    """Create the namespace and the link, or complete what a crash left half done."""
    if not _namespace_usable(plan.netns_path):
        succeeds(["ip", "netns", "del", plan.netns])
        plan.netns_path.unlink(missing_ok=True)
        run(["ip", "netns", "add", plan.netns])
    inside = ["ip", "-n", plan.netns]
    prefix = ipaddress.IPv4Network(plan.link_cidr).prefixlen
    if not _link_complete(plan):
        succeeds(["ip", "link", "del", plan.host_link])
        succeeds([*inside, "link", "del", plan.cluster_link])
        run(
            [
                "ip",
                "link",
                "add",
                plan.host_link,
                "type",
                "veth",
                "peer",
                "name",
                plan.cluster_link,
                "netns",
                plan.netns,
            ]
        )
    run(["ip", "addr", "replace", f"{plan.host_address}/{prefix}", "dev", plan.host_link])
    run(["ip", "link", "set", plan.host_link, "up"])
    run([*inside, "link", "set", "lo", "up"])
    run([*inside, "addr", "replace", f"{plan.cluster_address}/{prefix}", "dev", plan.cluster_link])
    run([*inside, "link", "set", plan.cluster_link, "up"])
    run([*inside, "route", "replace", "default", "via", plan.host_address])
    run([*enter(plan), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])


def enter(plan: Plan) -> list[str]:
    """Prefix that runs a command in the cluster's network only (`ip netns exec` would hide the cgroups as well)."""
    return ["nsenter", f"--net={plan.netns_path}", "--"]


def remove(plan: Plan) -> None:
    """Delete link and namespace; bridges, rules and sockets inside go with it."""
    succeeds(["ip", "link", "del", plan.host_link])
    succeeds(["ip", "netns", "del", plan.netns])
    plan.netns_path.unlink(missing_ok=True)


def exists(plan: Plan) -> bool:
    """Whether anything of the network is left."""
    return plan.netns_path.exists() or Path(f"/sys/class/net/{plan.host_link}").exists()


def _namespace_usable(path: Path) -> bool:
    """A name left over from a crash or a reboot is a plain file, not a namespace."""
    return path.exists() and succeeds(["nsenter", f"--net={path}", "--", "true"])


def _link_complete(plan: Plan) -> bool:
    outside = Path(f"/sys/class/net/{plan.host_link}").exists()
    return outside and succeeds(["ip", "-n", plan.netns, "link", "show", plan.cluster_link])
