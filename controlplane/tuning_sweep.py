"""Trial pods that nobody holds any more are told to go: their worker was killed, or could not say so itself."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from controlplane.kube import PODS, KubeClient, KubeError, NotFound
from controlplane.model import labels
from controlplane.model.errors import Refused
from controlplane.store.trials import Trials
from controlplane.tuning_pods import ClusterPods
from operators.tuning.pod_names import Attempt, attempt_of

log = logging.getLogger(__name__)

PERIOD_S = 15.0


@dataclass(frozen=True, slots=True)
class FoundPod:
    """A trial pod of this installation that has not been told to go."""

    namespace: str
    name: str
    uid: str
    of: Attempt


def orphans(found: list[FoundPod], held: set[tuple[str, int, int]]) -> list[FoundPod]:
    """Those whose attempt nobody holds. Pure; `held` must have been read after `found`: a pod is made under a lease, so
    one that is there and not held then was never to stay."""
    return [pod for pod in found if (pod.of.job, pod.of.number, pod.of.attempt) not in held]


@dataclass(slots=True, eq=False)
class PodSweep:
    """`start` begins with a sweep and goes on every `PERIOD_S`."""

    pods: ClusterPods
    store: Trials
    now: Callable[[], datetime]
    period_s: float = PERIOD_S
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="pod sweep", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def once(self) -> int:
        """How many pods were told to go. What cannot be read or deleted in one namespace keeps no other one from being
        swept. Raises Refused while the store is away."""
        found = list(self._found())
        if not found:
            return 0
        held = self.store.leases([(pod.of.job, pod.of.number) for pod in found], now=self.now())
        return sum(self._told(pod) for pod in orphans(found, held))

    def _run(self) -> None:
        while True:
            try:
                self.once()
            except (Refused, TimeoutError) as error:
                log.warning("trial pods could not be looked over: %s; tried again in %g s", error, self.period_s)
            except Exception:  # the next sweep may go well
                log.exception("trial pods could not be looked over")
            if self._over.wait(self.period_s):
                return

    def _found(self) -> Iterator[FoundPod]:
        selector = f"{labels.TRIAL},{labels.INSTALLATION}={self.pods.installation}"
        for namespace in self.pods.namespaces or (None,):
            try:
                body = self.pods.cluster.call(_listing(namespace, selector))
            except KubeError as error:
                log.warning("trial pods of %s could not be looked over: %s", namespace or "all namespaces", error)
                continue
            for item in json.loads(body)["items"]:
                metadata = item["metadata"]
                of = attempt_of(metadata.get("labels") or {})
                if of is not None and "deletionTimestamp" not in metadata:
                    yield FoundPod(metadata["namespace"], metadata["name"], metadata["uid"], of)

    def _told(self, pod: FoundPod) -> bool:
        try:
            self.pods.cluster.call(lambda client: client.delete(PODS, pod.name, pod.namespace, uid=pod.uid))
        except NotFound:
            return False
        except KubeError as error:
            log.warning("pod %s/%s measures for nobody and could not be deleted: %s", pod.namespace, pod.name, error)
            return False
        log.warning("pod %s/%s measures for nobody: told to go", pod.namespace, pod.name)
        return True


def _listing(namespace: str | None, selector: str) -> Callable[[KubeClient], Awaitable[bytes]]:
    # From the API server's cache: a pod that is missed now is found by the next sweep.
    return lambda client: client.list_page(PODS, namespace, label_selector=selector, resource_version="0")
