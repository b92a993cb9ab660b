"""Configuration of real nodes and of the control plane."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from devcluster import components, containers, nodes
from tests.unit.devcluster.test_plan import make

PROGRAMS = Path("/cache/bin")


def test_nodes_share_no_port_address_folder_or_cgroup() -> None:
    chosen = nodes.all_nodes(make(real_nodes=16))
    for part in ("name", "folder", "image_store", "socket", "pod_subnet", "cgroup"):
        assert len({getattr(node, part) for node in chosen}) == 16, part
    ports = [port for node in chosen for port in (node.kubelet_port, node.healthz_port)]
    fixed = {6443, 2379, 2380, 10247, 10249, 10256, 10257, 10259, 18054}
    assert len(set(ports) | fixed) == len(ports) + len(fixed)


def test_clusters_share_no_node_folder() -> None:
    one, other = (nodes.Node(make(name), 1) for name in ("dev", "test"))
    assert one.image_store != other.image_store
    assert nodes.cni_network(one) != nodes.cni_network(other)


def test_sockets_fit_into_the_kernels_limit_for_the_longest_name() -> None:
    assert len(str(nodes.Node(make("a" * 30), 16).socket)) < 108


def test_containerd_keeps_everything_below_its_own_folders() -> None:
    node = nodes.Node(make(), 1)
    config = tomllib.loads(nodes.containerd_config(node))
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert Path(config["state"]).is_relative_to(node.folder)
    assert cri["netns_mounts_under_state_dir"] is True
    assert cri["restrict_oom_score_adj"] is True
    assert cri["sandbox_image"] == nodes.PAUSE_IMAGE
    cleaning = tomllib.loads(nodes.containerd_config(node, with_kubernetes=False))
    assert set(cleaning["disabled_plugins"]) - set(config["disabled_plugins"]) == {"io.containerd.grpc.v1.cri"}


def test_the_kubelet_asks_the_api_server_about_every_caller() -> None:
    config = json.loads(nodes.kubelet_config(nodes.Node(make(), 1), v2=False))
    assert config["authentication"]["anonymous"]["enabled"] is False
    assert config["authorization"]["mode"] == "Webhook"
    assert config["failCgroupV1"] is False
    assert config["cgroupRoot"] == "/trimtab-dev/node-1"
    assert "failCgroupV1" not in json.loads(nodes.kubelet_config(nodes.Node(make(), 1), v2=True))


def test_pods_are_told_to_ask_the_clusters_dns() -> None:
    config = json.loads(nodes.kubelet_config(nodes.Node(make(), 1), v2=True))
    service = next(item for item in components.dns_objects(make()) if item["kind"] == "Service")
    assert config["clusterDNS"] == [service["spec"]["clusterIP"]]  # type: ignore[index]


def test_control_plane_authorises_for_real_and_is_not_throttled() -> None:
    server = components.api_server(make(), PROGRAMS).argv
    assert "--authorization-mode=Node,RBAC" in server
    assert "--enable-admission-plugins=NodeRestriction" in server
    for spec in (components.controller_manager(make(), PROGRAMS), components.scheduler(make(), PROGRAMS)):
        assert {"--kube-api-qps=1000", "--kube-api-burst=1000"} <= set(spec.argv)
    grace = components.controller_manager(make(node_monitor_grace_s=20), PROGRAMS).argv
    assert "--node-monitor-grace-period=20s" in grace


def test_components_start_inside_the_namespace_and_the_forwarder_outside() -> None:
    assert components.etcd(make(), PROGRAMS).prefix == ("nsenter", "--net=/run/netns/trimtab-dev", "--")
    forwarder = components.forwarder(make())
    assert forwarder.prefix == ()
    assert "16443=10.213.0.10:6443" in forwarder.argv


def test_shim_sockets_are_named_as_containerd_names_them() -> None:
    # Seen on a running containerd 1.6.20 for this address and id.
    path = containers.shim_socket(Path("/var/lib/x/containerd.sock"), "abc")
    assert path.parent == Path("/run/containerd/s")
    assert len(path.name) == 64
