"""Command lines of the control plane, kube-proxy, kwok and CoreDNS: pure functions of the plan."""

from __future__ import annotations

import sys
from pathlib import Path

from devcluster.network import enter
from devcluster.paths import PACKAGE
from devcluster.plan import API_PORT, CLUSTER_DOMAIN, DNS_ADDRESS, POD_CIDR, SERVICE_CIDR, Plan
from devcluster.processes import Spec

ETCD_URL = "http://127.0.0.1:2379"
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
API_SERVICE, API_SERVICE_PORT = "trimtab-api.trimtab-system", 80  # helm/
SAMPLE_SERVICE, SAMPLE_SERVICE_PORT = "sample.default", 8000  # examples/serving-openvino.yaml
UNTHROTTLED = ("--kube-api-qps=1000", "--kube-api-burst=1000")


def etcd(plan: Plan, programs: Path) -> Spec:
    """No fsync: a crash of a process loses nothing; only a power cut may, and then the cluster is rebuilt."""
    peer = "http://127.0.0.1:2380"
    return _spec(
        plan,
        "etcd",
        programs / "etcd",
        f"--data-dir={plan.state / 'etcd'}",
        "--name=etcd",
        "--unsafe-no-fsync",
        f"--listen-client-urls={ETCD_URL}",
        f"--advertise-client-urls={ETCD_URL}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=etcd={peer}",
        "--auto-compaction-retention=10m",
        "--quota-backend-bytes=4294967296",
        "--log-level=warn",
    )


def api_server(plan: Plan, programs: Path) -> Spec:
    """Real authorisation: Node and RBAC authorisers, NodeRestriction, a client certificate towards the kubelets."""
    pki = plan.state / "pki"
    return _spec(
        plan,
        "kube-apiserver",
        programs / "kube-apiserver",
        f"--etcd-servers={ETCD_URL}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={plan.cluster_address}",
        f"--secure-port={API_PORT}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--token-auth-file={pki / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--anonymous-auth=true",
        "--allow-privileged=true",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP",  # node names do not resolve
        "--shutdown-delay-duration=0s",
    )


def controller_manager(plan: Plan, programs: Path) -> Spec:
    """Unthrottled, so that a benchmark against native Deployments measures them and not the client's limiter."""
    pki = plan.state / "pki"
    return _spec(
        plan,
        "kube-controller-manager",
        programs / "kube-controller-manager",
        f"--kubeconfig={plan.state / 'kubeconfigs' / 'kube-controller-manager'}",
        f"--service-account-private-key-file={pki / 'sa.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-cidr={POD_CIDR}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--use-service-account-credentials",
        "--controllers=*,-node-ipam-controller,-node-route-controller",
        f"--node-monitor-grace-period={plan.node_monitor_grace_s}s",
        *UNTHROTTLED,
    )


def scheduler(plan: Plan, programs: Path) -> Spec:
    """The stock scheduler."""
    return _spec(
        plan,
        "kube-scheduler",
        programs / "kube-scheduler",
        f"--kubeconfig={plan.state / 'kubeconfigs' / 'kube-scheduler'}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        *UNTHROTTLED,
    )


def proxy(plan: Plan, programs: Path) -> Spec:
    """One kube-proxy for the namespace, which all nodes share. Connection tracking limits belong to the host: left alone."""
    return _spec(
        plan,
        "kube-proxy",
        programs / "kube-proxy",
        f"--kubeconfig={plan.state / 'kubeconfigs' / 'kube-proxy'}",
        "--proxy-mode=iptables",
        f"--cluster-cidr={POD_CIDR}",
        "--hostname-override=node-1",
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0",
        "--conntrack-tcp-timeout-close-wait=0",
        "--metrics-bind-address=127.0.0.1:10249",
        "--healthz-bind-address=127.0.0.1:10256",
        "--iptables-min-sync-period=200ms",
    )


def kwok(plan: Plan, programs: Path) -> Spec:
    """Drives the simulated nodes and the pods on them; real nodes do not carry the annotation."""
    return _spec(
        plan,
        "kwok",
        programs / "kwok",
        f"--kubeconfig={plan.state / 'kubeconfigs' / 'kwok'}",
        "--manage-all-nodes=false",
        "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
        "--server-address=127.0.0.1:10247",
        f"--node-lease-duration-seconds={min(max(plan.node_monitor_grace_s, 20), 600)}",  # renewed at a quarter of it
    )


def coredns(plan: Plan, programs: Path) -> Spec:
    """A process in the namespace rather than a pod: no image to import, up before the first node."""
    return _spec(plan, "coredns", programs / "coredns", "-conf", str(plan.state / "coredns" / "Corefile"))


def forwarder(plan: Plan) -> Spec:
    """Not started inside the namespace: it listens on the host first and enters by itself."""
    targets = {
        "kubernetes": f"{plan.cluster_address}:{API_PORT}",
        "api": f"{API_SERVICE}.svc.{CLUSTER_DOMAIN}:{API_SERVICE_PORT}",
        "engine": f"{SAMPLE_SERVICE}.svc.{CLUSTER_DOMAIN}:{SAMPLE_SERVICE_PORT}",
    }
    # The system's Python whatever runs this, so that the command line stays the same from one `up` to the next.
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    program = (python, "-P", str(PACKAGE / "forwarder.py"))
    forwards = (f"{port}={targets[name]}" for name, port in plan.ports.items())
    return Spec("forwarder", (*program, "--netns", str(plan.netns_path), "--dns", plan.cluster_address, *forwards))


def corefile(plan: Plan) -> str:
    """Names of the cluster; every other name does not exist, as the cluster has no way out of this machine."""
    return f""".:53 {{
    errors
    ready 127.0.0.1:18054
    loadbalance
    cache 5
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {plan.state / "kubeconfigs" / "coredns"}
        pods insecure
        ttl 5
    }}
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
"""


def dns_objects(plan: Plan) -> list[dict[str, object]]:
    """The kube-dns Service with the namespace's address as its endpoint, and the rights of the CoreDNS process."""
    meta = {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    slice_meta = {
        "name": "kube-dns-devcluster",
        "namespace": "kube-system",
        "labels": {"kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "devcluster"},
    }
    rules = [
        {"apiGroups": [""], "resources": ["services", "endpoints", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    rbac = "rbac.authorization.k8s.io"
    role = {"apiGroup": rbac, "kind": "ClusterRole", "name": "devcluster:coredns"}
    subject = {"apiGroup": rbac, "kind": "User", "name": "coredns"}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"clusterIP": DNS_ADDRESS, "ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": slice_meta,
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [plan.cluster_address], "conditions": {"ready": True}}],
        },
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": role["name"]}, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role["name"]},
            "roleRef": role,
            "subjects": [subject],
        },
    ]


def _spec(plan: Plan, name: str, program: Path, *arguments: str) -> Spec:
    return Spec(name=name, argv=(str(program), *arguments), prefix=tuple(enter(plan)))
