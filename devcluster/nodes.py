"""Real nodes: per node a containerd, a kubelet, a bridge network and a cgroup, side by side on one machine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from devcluster import cgroups
from devcluster.credentials import node_name
from devcluster.network import enter
from devcluster.paths import cache_root, write_atomic
from devcluster.plan import CLUSTER_DOMAIN, DNS_ADDRESS, Plan
from devcluster.processes import Spec

PAUSE_IMAGE = "localhost/trimtab/pause:1"
CNI_PROGRAMS = Path("/usr/lib/cni")  # where Debian's containernetworking-plugins puts them
NODE_LABEL = "trimtab.dev/node=real"


@dataclass(frozen=True)
class Node:
    """One real node. Ports differ from node to node, as all share the cluster's network namespace."""

    plan: Plan
    index: int  # from 1

    @property
    def name(self) -> str:
        """Node name in the cluster."""
        return node_name(self.index)

    @property
    def folder(self) -> Path:
        """State of this node."""
        return self.plan.state / "nodes" / self.name

    @property
    def image_store(self) -> Path:
        """containerd's images and snapshots: in the cache, so that a cluster starts warm with its images in place."""
        return cache_root() / "nodes" / self.plan.name / self.name

    @property
    def socket(self) -> Path:
        """containerd's socket."""
        return self.folder / "containerd.sock"

    @property
    def pod_subnet(self) -> str:
        """Addresses of this node's pods."""
        return f"10.244.{self.index - 1}.0/24"

    @property
    def cgroup(self) -> str:
        """cgroup of this node's pods, relative to the cgroup root."""
        return f"{self.plan.cgroup}/{self.name}"

    @property
    def kubelet_port(self) -> int:
        """HTTPS port of the kubelet."""
        return 10250 + 100 * (self.index - 1)

    @property
    def healthz_port(self) -> int:
        """Health port of the kubelet, on loopback."""
        return 10248 + 100 * (self.index - 1)

    def ctr(self) -> list[str]:
        """Prefix of `ctr` commands against this node's images and containers."""
        return ["ctr", "--address", str(self.socket), "--namespace", "k8s.io"]


def all_nodes(plan: Plan) -> list[Node]:
    """The real nodes of a cluster."""
    return [Node(plan, index) for index in range(1, plan.real_nodes + 1)]


def containerd_config(node: Node, with_kubernetes: bool = True) -> str:
    """containerd's own place for everything, network namespaces of pods included.

    Without Kubernetes it only keeps images and containers, and takes up no pod that an earlier cluster left.
    """
    off = "" if with_kubernetes else '"io.containerd.grpc.v1.cri",'
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "{node.image_store}"
state = "{node.folder / "run"}"
disabled_plugins = [
    "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing", {off}
]

[grpc]
address = "{node.socket}"

[{cri}]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true  # where negative scores are refused, every sandbox would fail without it
netns_mounts_under_state_dir = true

[{cri}.cni]
bin_dir = "{CNI_PROGRAMS}"
conf_dir = "{node.folder / "cni"}"

[{cri}.containerd]
snapshotter = "overlayfs"

[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[{cri}.containerd.runtimes.runc.options]
SystemdCgroup = false
Root = "{node.folder / "runc"}"
"""


def cni_network(node: Node) -> str:
    """Name of the pod network; CNI also names its cached results after it, under a path all clusters share."""
    return f"{node.plan.netns}-{node.name}"


def cni_config(node: Node) -> str:
    """A bridge per node; pods of different nodes meet through the namespace's own forwarding."""
    ranges = [[{"subnet": node.pod_subnet}]]
    ipam = {
        "type": "host-local",
        "ranges": ranges,
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(node.folder / "ipam"),
    }
    bridge = {
        "type": "bridge",
        "bridge": f"cni{node.index}",
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": ipam,
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": cni_network(node), "plugins": [bridge, portmap]}, indent=1)


def kubelet_config(node: Node, v2: bool) -> str:
    """Webhook authentication and authorisation; eviction off, as the disk belongs to the host."""
    config: dict[str, object] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(node.plan.state / "pki" / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.cgroup}",
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "enforceNodeAllocatable": [],
        "evictionHard": {},
        "failSwapOn": False,
        "healthzPort": node.healthz_port,
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": False,
        "maxPods": 110,
        "nodeStatusUpdateFrequency": "5s",
        "podLogsDir": str(node.folder / "pod-logs"),
        "port": node.kubelet_port,
        "readOnlyPort": 0,
        "resolvConf": str(node.plan.state / "resolv.conf"),
        "serializeImagePulls": False,
        "syncFrequency": "30s",
        "volumePluginDir": str(node.folder / "volume-plugins"),
    }
    if not v2:
        config["failCgroupV1"] = False
    return json.dumps(config, indent=1)


def containerd_spec(node: Node) -> Spec:
    """containerd runs inside the cluster's network, as CNI makes its bridge there."""
    argv = ("/usr/bin/containerd", "--config", str(node.folder / "containerd.toml"))
    return Spec(f"containerd-{node.name}", argv, tuple(enter(node.plan)))


def kubelet_spec(node: Node, programs: Path) -> Spec:
    """The stock kubelet."""
    argv = (
        str(programs / "kubelet"),
        f"--config={node.folder / 'kubelet.json'}",
        f"--kubeconfig={node.plan.state / 'kubeconfigs' / ('kubelet-' + node.name)}",
        f"--root-dir={node.folder / 'kubelet'}",
        f"--cert-dir={node.folder / 'kubelet-pki'}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.plan.cluster_address}",
        f"--node-labels={NODE_LABEL}",
    )
    return Spec(f"kubelet-{node.name}", argv, tuple(enter(node.plan)))


def prepare(node: Node) -> None:
    """Write a node's files and create its cgroup; harmless to repeat."""
    node.image_store.mkdir(parents=True, exist_ok=True)
    for folder in ("run", "cni", "kubelet", "volume-plugins", "pod-logs"):
        (node.folder / folder).mkdir(parents=True, exist_ok=True)
    cgroups.ensure(node.cgroup)
    write_atomic(node.folder / "containerd.toml", containerd_config(node))
    write_atomic(node.folder / "cni" / "10-bridge.conflist", cni_config(node))
    write_atomic(node.folder / "kubelet.json", kubelet_config(node, cgroups.is_v2()))
    write_atomic(node.plan.state / "resolv.conf", "# no upstream: pods ask the cluster's own DNS\n")
