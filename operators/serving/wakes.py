"""Which deployments a change of the cluster is news for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from operators.pools.rows import NodeView
from operators.runtime import Expectations, Informer, Key, key_of
from operators.serving.owned import OwnedRow
from operators.serving.podnews import told
from operators.workloads.podview import PodView


@dataclass(frozen=True, slots=True)
class Wakes:
    """Handlers of the informers of pods, nodes and owned objects; `wake` is called with each deployment's key."""

    pods: Informer[Any, PodView]
    expectations: Expectations
    wake: Callable[[Key], None]

    def pod_changed(self, old: PodView | None, new: PodView | None) -> None:
        """The pod's deployment, when what a decision looks at has changed."""
        row = new or old
        if row is None or row.deployment is None:
            return
        key = key_of(row.namespace, row.deployment)
        if new is None or new.deleting:
            self.expectations.deleted(key, row.uid)
        if old is None or new is None or old is new or told(old) != told(new):
            self.wake(key)

    def node_changed(self, old: NodeView | None, new: NodeView | None) -> None:
        """Every deployment with a pod on a node that came, went, or changed its readiness."""
        row = new or old
        if row is None or (old is not None and new is not None and old.ready == new.ready):
            return
        for pod in self.pods.store.by_index("node", row.name):
            if pod.deployment is not None:
                self.wake(key_of(pod.namespace, pod.deployment))

    def owned_changed(self, old: OwnedRow | None, new: OwnedRow | None) -> None:
        """The owner of an object that is not as it was."""
        row = new or old
        if row is not None and row.deployment and (old is None or new is None or _differ(old, new)):
            self.wake(key_of(row.namespace, row.deployment))


def _differ(old: OwnedRow, new: OwnedRow) -> bool:
    return old.shape != new.shape or (old.ready_pods > 0) != (new.ready_pods > 0)
