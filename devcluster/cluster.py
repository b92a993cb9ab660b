"""A running cluster as an object: kubectl, and the handles that fault tests pull.

cluster = Cluster.open("dev")
cluster.kubectl("get", "nodes")
cluster.kill("kube-apiserver")
cluster.restart("kube-apiserver")
"""

from __future__ import annotations

import json
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster import build, components, nodes, plan, processes, versions
from devcluster.errors import DevclusterError
from devcluster.kubeapi import Api
from devcluster.network import enter
from devcluster.plan import Plan
from devcluster.processes import Process, Spec
from devcluster.shell import run

FIELD_MANAGER = "trimtab-devcluster"


@dataclass(frozen=True)
class Cluster:
    """One cluster, running or not. `programs` is the folder of its binaries."""

    plan: Plan
    programs: Path

    @classmethod
    def open(cls, name: str) -> Cluster:
        """The cluster of this name. Raises DevclusterError when there is none."""
        found = plan.load(name)
        if found is None:
            raise DevclusterError(f"there is no cluster {name!r} on this machine: start it with `make up`")
        return cls(found, build.binary_dir(versions.load(found.kubernetes_minor)))

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.plan.kubeconfig

    @property
    def nodes(self) -> list[nodes.Node]:
        """The real nodes."""
        return nodes.all_nodes(self.plan)

    # -- talking to it ------------------------------------------------------------------------------------------

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 120) -> str:
        """Run kubectl as the administrator; its standard output. Raises CommandError when kubectl fails."""
        argv = [self.programs / "kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]
        return run(argv, stdin=stdin, timeout_s=timeout_s, env={"KUBECACHEDIR": str(self.plan.state / "kubectl-cache")})

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get ... -o json`, decoded."""
        decoded: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return decoded

    def apply(self, objects: Sequence[dict[str, Any]], timeout_s: float = 300) -> None:
        """Server-side apply of many objects in one go."""
        listing = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        arguments = ["apply", "--server-side", "--force-conflicts", f"--field-manager={FIELD_MANAGER}", "-f", "-"]
        self.kubectl(*arguments, stdin=json.dumps(listing), timeout_s=timeout_s)

    def api(self) -> Api:
        """Raw requests as the administrator."""
        tokens = json.loads((self.plan.state / "pki" / "tokens.json").read_text(encoding="utf-8"))
        return Api(self.plan.api_url, str(self.plan.state / "pki" / "ca.crt"), tokens["admin"])

    def api_ready(self, path: str = "/readyz") -> bool:
        """Whether the API server answers `path` with 200."""
        context = ssl.create_default_context(cafile=str(self.plan.state / "pki" / "ca.crt"))
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        try:
            with opener.open(self.plan.api_url + path, timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    # -- its processes ------------------------------------------------------------------------------------------

    def specs(self) -> dict[str, Spec]:
        """How each component is started, by name."""
        makers = (
            components.etcd,
            components.api_server,
            components.controller_manager,
            components.scheduler,
            components.coredns,
            components.kwok,
            components.proxy,
        )
        specs = [maker(self.plan, self.programs) for maker in makers]
        specs.append(components.forwarder(self.plan))
        for node in self.nodes:
            specs += [nodes.containerd_spec(node), nodes.kubelet_spec(node, self.programs)]
        return {spec.name: spec for spec in specs}

    def find(self, component: str) -> Process:
        """The running process of a component. Raises DevclusterError when it does not run."""
        found = processes.find(self.plan.state, component)
        if found is None:
            raise DevclusterError(f"{component} of cluster {self.plan.name} is not running")
        return found

    def kill(self, component: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a component at once (kill -9) and wait until it is gone."""
        process = self.find(component)
        processes.send(process, number)
        wait_for(lambda: not processes.alive(process), 10, f"{component} to end")

    def start(self, component: str) -> Process:
        """Start a component that does not run; the running one when it does."""
        attempts = 5
        while True:
            try:
                return processes.ensure(self.plan.state, self.specs()[component])
            except DevclusterError as error:
                # The kernel may take a moment to free the port of a process that was just killed.
                attempts -= 1
                if "address already in use" not in str(error) or not attempts:
                    raise
                time.sleep(1)

    def restart(self, component: str, number: signal.Signals = signal.SIGKILL) -> Process:
        """End a component and start it again; for the API server, wait until it is ready."""
        self.kill(component, number)
        started = self.start(component)
        if component in ("kube-apiserver", "etcd"):
            wait_for(self.api_ready, 60, "the API server to be ready")
        return started

    def freeze(self, component: str) -> None:
        """SIGSTOP: the component keeps its connections and answers nothing."""
        processes.send(self.find(component), signal.SIGSTOP)

    def thaw(self, component: str) -> None:
        """SIGCONT."""
        processes.send(self.find(component), signal.SIGCONT)

    def compact(self) -> int:
        """Compact etcd at its present revision, so that watches from before it get 410; returns the revision."""
        revision = int(self._etcd("maintenance/status", {})["header"]["revision"])
        self._etcd("kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def _etcd(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call of etcd's JSON gateway, which listens on loopback inside the namespace."""
        script = (
            "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], sys.stdin.buffer.read()).read().decode())"
        )
        argv = [*enter(self.plan), sys.executable, "-c", script, f"{components.ETCD_URL}/v3/{method}"]
        answer: dict[str, Any] = json.loads(run(argv, stdin=json.dumps(body), timeout_s=30, env={"no_proxy": "*"}))
        return answer


class Ended(DevclusterError):
    """A process that was waited for is gone: no use in waiting longer."""


def wait_for(condition: Callable[[], object], patience_s: float, what: str, pause_s: float = 0.1) -> None:
    """Poll `condition` until it is true. Raises DevclusterError after `patience_s`; its own errors count as not yet."""
    deadline = time.monotonic() + patience_s
    last: Exception | None = None
    while True:
        try:
            if condition():
                return
        except Ended:
            raise
        except DevclusterError as error:
            last = error
        if time.monotonic() >= deadline:
            raise DevclusterError(f"waited {patience_s:g} s for {what}{f': {last}' if last else ''}")
        time.sleep(pause_s)
