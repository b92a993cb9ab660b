"""What users of tuning jobs talk to, as processes: `trimtab api` and `trimtab operator`, over a fake API server."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import httpx

from tests.perf.tuning_cluster import Cluster, wait_until
from tests.servers import free_port

TOKEN = "chaos-token"
NAMESPACE = "chaos"
# Of a machine with many other things to do.
_START_S = 120.0
_ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` 0: nobody answered."""

    status: int
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Faces:
    """Addresses of the three."""

    api: str
    operator: str
    kubernetes: str

    def ready(self, name: str) -> bool:
        """Whether `api` or `operator` does its work."""
        url = self.api if name == "api" else self.operator
        return ask("GET", f"{url}/readyz").status == 200


def faces(here: Cluster) -> Faces:
    """Starts them. The fake API server is not for killing: it stands for one that keeps what it was told."""
    ports = [free_port() for _ in range(3)]
    api, operator, kubernetes = (f"http://127.0.0.1:{port}" for port in ports)
    kubeconfig = here.folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(_kubeconfig(kubernetes)))
    trimtab = [sys.executable, "-m", "controlplane"]
    common = ["--kubeconfig", str(kubeconfig), "--log-level", "warning"]
    # One operator without rivals: the lease would keep its successor waiting, and is tested by itself.
    environment = ["env", f"TRIMTAB_DATABASE_URL={here.url}", "TRIMTAB_LEADER_ELECTION=false"]
    here.commands |= {
        "kubernetes": [sys.executable, "-m", "tests.perf.fake_cluster_process", str(ports[2]), TOKEN],
        "api": [*environment, *trimtab, "api", *common, "--port", str(ports[0])],
        "operator": [*environment, *trimtab, "operator", *common, "--port", str(ports[1])],
    }
    made = Faces(api, operator, kubernetes)
    here.start("kubernetes")
    if not wait_until(lambda: ask("GET", f"{kubernetes}/api/v1/pods").status == 200, _START_S):
        raise RuntimeError("the fake API server does not answer")
    # A cluster makes it by itself, and a job's pods run under it.
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": NAMESPACE}}
    ask("POST", f"{kubernetes}/api/v1/namespaces/{NAMESPACE}/serviceaccounts", account)
    here.start("api")
    here.start("operator")
    return made


def ask(method: str, url: str, body: object = None, **headers: str) -> Answer:
    """One request with the token. Whatever goes wrong on the way is status 0: nobody knows whether it was done."""
    own = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **headers}
    try:
        answer = httpx.request(method, url, json=body, headers=own, timeout=_ANSWER_S)
    except httpx.TransportError:
        return Answer(0, {})
    try:
        found = answer.json()
    except ValueError:
        found = {}
    return Answer(answer.status_code, found if isinstance(found, dict) else {})


def _kubeconfig(server: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "chaos",
        "contexts": [{"name": "chaos", "context": {"cluster": "chaos", "user": "chaos"}}],
        "clusters": [{"name": "chaos", "cluster": {"server": server}}],
        "users": [{"name": "chaos", "user": {"token": TOKEN}}],
    }
