"""What one cluster is called and which addresses, links and ports it owns: chosen once, then remembered.

Pod and service ranges are the same in every cluster, because each lives in a network namespace of its own. Only what
touches the host must differ: the link between the two namespaces and the ports on 127.0.0.1.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from devcluster.errors import DevclusterError
from devcluster.paths import STATE_ROOT, write_atomic

LINK_POOL = ipaddress.IPv4Network("10.213.0.0/16")
POD_CIDR = ipaddress.IPv4Network("10.244.0.0/16")
SERVICE_CIDR = ipaddress.IPv4Network("10.96.0.0/12")  # a /24 would end at about 250 Services
DNS_ADDRESS = "10.96.0.10"
API_SERVICE_ADDRESS = "10.96.0.1"
CLUSTER_DOMAIN = "cluster.local"
API_PORT = 6443
FORWARDS = {"kubernetes": 16443, "api": 18080, "engine": 18000}  # preferred ports on 127.0.0.1
MAX_REAL_NODES = 16
MAX_KWOK_NODES = 5000
_NAME = re.compile(r"^[a-z]([a-z0-9-]{0,28}[a-z0-9])?$")


@dataclass(frozen=True)
class Plan:
    """One cluster. `link_cidr` is the /30 between host and namespace; `ports` are on 127.0.0.1."""

    name: str
    kubernetes_minor: str
    link_cidr: str
    ports: dict[str, int]
    real_nodes: int
    kwok_nodes: int
    node_monitor_grace_s: int

    @property
    def state(self) -> Path:
        """Folder with everything this cluster wrote."""
        return STATE_ROOT / self.name

    @property
    def netns(self) -> str:
        """Name of the network namespace."""
        return f"trimtab-{self.name}"

    @property
    def netns_path(self) -> Path:
        """Where `ip netns` keeps the namespace."""
        return Path("/run/netns") / self.netns

    @property
    def host_link(self) -> str:
        """Host end of the veth pair (interface names hold at most 15 characters)."""
        return f"tt{_digest(self.name)}h"

    @property
    def cluster_link(self) -> str:
        """Namespace end of the veth pair."""
        return f"tt{_digest(self.name)}c"

    @property
    def host_address(self) -> str:
        """The host on the link."""
        return str(ipaddress.IPv4Network(self.link_cidr)[1])

    @property
    def cluster_address(self) -> str:
        """The cluster on the link: API server, node addresses, NodePorts."""
        return str(ipaddress.IPv4Network(self.link_cidr)[2])

    @property
    def api_url(self) -> str:
        """API server, reachable from this machine only."""
        return f"https://{self.cluster_address}:{API_PORT}"

    @property
    def cgroup(self) -> str:
        """Parent of the nodes' cgroups, relative to the cgroup root."""
        return f"trimtab-{self.name}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state / "admin.kubeconfig"


def check_name(name: str) -> str:
    """A cluster name, or DevclusterError."""
    if not _NAME.match(name):
        raise DevclusterError(
            f"cluster name {name!r}: use at most 30 of a-z, 0-9 and '-', starting with a letter, not ending with '-'"
        )
    return name


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def choose_link(name: str, taken: Iterable[ipaddress.IPv4Network]) -> str:
    """A free /30 of the pool; the search starts at a place given by the name. Raises DevclusterError if none is free."""
    used = list(taken)
    subnets = 2 ** (30 - LINK_POOL.prefixlen)
    start = int(_digest(name), 16) % subnets
    for step in range(subnets):
        base = int(LINK_POOL.network_address) + 4 * ((start + step) % subnets)
        candidate = ipaddress.IPv4Network((base, 30))
        if not any(candidate.overlaps(other) for other in used):
            return str(candidate)
    raise DevclusterError(f"no free /30 left in {LINK_POOL}: this machine's routes cover all of it")


def choose_ports(taken: Iterable[int], is_free: Callable[[int], bool]) -> dict[str, int]:
    """A port on 127.0.0.1 for each forward: the preferred one, or the next free one above it."""
    used = set(taken)
    ports: dict[str, int] = {}
    for name, preferred in FORWARDS.items():
        for port in range(preferred, preferred + 1000):
            if port not in used and is_free(port):
                ports[name] = port
                used.add(port)
                break
        else:
            raise DevclusterError(f"no free port from {preferred} to {preferred + 999} for the {name} forward")
    return ports


def load(name: str) -> Plan | None:
    """The remembered plan of a cluster, None when it has none (or one that an older version wrote)."""
    path = STATE_ROOT / check_name(name) / "plan.json"
    try:
        return Plan(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None


def for_removal(name: str) -> Plan:
    """A plan for clearing up a cluster whose own plan is damaged or gone: what is removed follows from the name alone."""
    return Plan(check_name(name), "", f"{LINK_POOL.network_address}/30", {}, MAX_REAL_NODES, 0, 0)


def known_clusters() -> list[Plan]:
    """Every cluster with a plan on this machine."""
    if not STATE_ROOT.is_dir():
        return []
    plans = (load(path.parent.name) for path in sorted(STATE_ROOT.glob("*/plan.json")))
    return [plan for plan in plans if plan is not None]


def links(plans: Iterable[Plan]) -> list[ipaddress.IPv4Network]:
    """The links these clusters remember, running or not."""
    return [ipaddress.IPv4Network(plan.link_cidr) for plan in plans]


def save(plan: Plan) -> None:
    """Remember the plan."""
    write_atomic(plan.state / "plan.json", json.dumps(asdict(plan), indent=1) + "\n")


def resize(plan: Plan, real_nodes: int, kwok_nodes: int, node_monitor_grace_s: int, minor: str) -> Plan:
    """The same cluster with other sizes. Raises DevclusterError where a running cluster cannot follow."""
    check_sizes(real_nodes, kwok_nodes)
    if minor != plan.kubernetes_minor:
        raise DevclusterError(
            f"cluster {plan.name} runs Kubernetes {plan.kubernetes_minor}, not {minor}: "
            f"stop it first (python3 -m devcluster down --name {plan.name}) or choose another --name"
        )
    return replace(plan, real_nodes=real_nodes, kwok_nodes=kwok_nodes, node_monitor_grace_s=node_monitor_grace_s)


def check_sizes(real_nodes: int, kwok_nodes: int) -> None:
    """Raise DevclusterError where a node count is out of range."""
    if not 0 <= real_nodes <= MAX_REAL_NODES:
        raise DevclusterError(f"--nodes {real_nodes}: from 0 to {MAX_REAL_NODES}")
    if not 0 <= kwok_nodes <= MAX_KWOK_NODES:
        raise DevclusterError(f"--kwok-nodes {kwok_nodes}: from 0 to {MAX_KWOK_NODES}")
