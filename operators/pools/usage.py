"""What pods and reservations hold on each node, kept one event at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from operators.workloads.podview import PodView

CPU = "cpu"

_Owner = tuple[str, str]  # (namespace, uid) of a deployment


@dataclass(frozen=True, slots=True)
class _Held:
    node: str
    units: int
    ours: bool


@dataclass(slots=True)
class _OnNode:
    units: int = 0
    ours: int = 0
    keys: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Units promised to a pod that the cache does not show yet. `not_uid`: the pod of that name that is leaving."""

    node: str
    units: int
    expires_at_s: float
    not_uid: str | None


class Usage:
    """Units held per node.

    A pod holds what it requests, from its creation (by the node it is bound to, or, if it is ours, the node its
    affinity names) until it is gone or has ended; while it terminates it still holds. Ours are pods that a known
    deployment of their own namespace controls: labels and annotations are anybody's to write, and an unbound pod that
    only looked like ours would keep a node from everybody. `resource_of` names the resource a node is counted in;
    `changed` hears the name of each node whose sum may have changed.
    """

    def __init__(
        self,
        resource_of: Callable[[str], str | None],
        changed: Callable[[str, bool], None],
    ) -> None:
        self._resource_of = resource_of
        self._changed = changed
        self._owners: set[_Owner] = set()
        self._gone_owners: set[_Owner] = set()  # pods of theirs are left: they drain
        self._by_owner: dict[_Owner, set[str]] = {}
        self._pods: dict[str, PodView] = {}
        self._held: dict[str, _Held] = {}
        self._nodes: dict[str, _OnNode] = {}
        self._reserved: dict[str, Reservation] = {}

    def used(self, node: str) -> tuple[int, bool]:
        """(units held, whether the node counts as occupied). System pods alone leave a CPU node empty."""
        entry = self._nodes.get(node)
        if entry is None:
            return 0, False
        return entry.units, entry.ours > 0 or (entry.units > 0 and self._resource_of(node) != CPU)

    def pods_on(self, node: str) -> int:
        """Pods of ours and reservations on a node."""
        entry = self._nodes.get(node)
        return 0 if entry is None else entry.ours

    def set_owner(self, namespace: str, uid: str) -> None:
        """A deployment exists. Its pods that came before it count as ours from now on."""
        owner = (namespace, uid)
        self._gone_owners.discard(owner)
        if owner not in self._owners:
            self._owners.add(owner)
            self._count_again(self._by_owner.get(owner, ()))

    def remove_owner(self, namespace: str, uid: str) -> None:
        """A deployment is gone. The pods it leaves count as ours until the garbage collector has taken them."""
        owner = (namespace, uid)
        if owner in self._owners and self._by_owner.get(owner):
            self._gone_owners.add(owner)
        else:
            self._owners.discard(owner)

    def set_pod(self, pod: PodView) -> None:
        """A pod was added or changed."""
        key = pod.key
        self._link(self._pods.get(key), pod)
        held = self._holding(pod)
        promised = self._reserved.get(key)
        if promised is not None and pod.uid != promised.not_uid:
            # A pod that came as promised makes no room: what it holds is told below, and nothing else.
            came = held is not None and held.node == promised.node and held.units >= promised.units
            del self._reserved[key]
            self._hold(_reserved(key), None, told=came and key not in self._held)
        self._pods[key] = pod
        self._hold(key, held)

    def remove_pod(self, pod: PodView) -> None:
        """A pod is gone. A late message about an earlier pod of the same name changes nothing."""
        known = self._pods.get(pod.key)
        if known is not None and known.uid == pod.uid:
            del self._pods[pod.key]
            self._link(known, None)
            self._hold(pod.key, None)

    def reserve(self, key: str, node: str, units: int, expires_at_s: float) -> None:
        """Hold units for a pod about to be created, until it is seen, released or past its time."""
        known = self._pods.get(key)
        self._reserved[key] = Reservation(node, units, expires_at_s, None if known is None else known.uid)
        self._hold(_reserved(key), _Held(node, units, ours=True))

    def release(self, key: str) -> None:
        """Give a reservation back. Unknown keys are ignored."""
        if self._reserved.pop(key, None) is not None:
            self._hold(_reserved(key), None)

    def expire(self, now_s: float) -> list[str]:
        """Drop reservations past their time; returns their keys."""
        late = [key for key, item in self._reserved.items() if item.expires_at_s <= now_s]
        for key in late:
            self.release(key)
        return late

    def reservations(self) -> dict[str, Reservation]:
        """A copy, by pod key."""
        return dict(self._reserved)

    def recount(self, node: str) -> None:
        """The resource a node is counted in changed: count what is on it again."""
        entry = self._nodes.get(node)
        if entry is not None:
            self._count_again(entry.keys)

    def _count_again(self, keys: Iterable[str]) -> None:
        for key in list(keys):
            pod = self._pods.get(key)
            if pod is not None:
                self._hold(key, self._holding(pod))

    def _link(self, before: PodView | None, now: PodView | None) -> None:
        """Keep the pods of each owner."""
        old, new = _owner_of(before), _owner_of(now)
        if new is not None and now is not None:
            self._by_owner.setdefault(new, set()).add(now.key)
        if old is None or before is None or old == new:
            return
        keys = self._by_owner[old]
        keys.discard(before.key)
        if not keys:
            del self._by_owner[old]
            if old in self._gone_owners:
                self._gone_owners.discard(old)
                self._owners.discard(old)

    def _holding(self, pod: PodView) -> _Held | None:
        ours = _owner_of(pod) in self._owners
        node = pod.node_name or (pod.target_node if ours else None)
        if node is None or pod.terminal:
            return None
        resource = self._resource_of(node)
        return _Held(node, 0 if resource is None else pod.request(resource), ours)

    def _hold(self, key: str, held: _Held | None, *, told: bool = False) -> None:
        before = self._held.get(key)
        if before == held:
            return
        if before is not None:
            entry = self._nodes[before.node]
            entry.units -= before.units
            entry.ours -= before.ours
            entry.keys.discard(key)
            if not entry.keys:
                del self._nodes[before.node]
            del self._held[key]
        if held is not None:
            entry = self._nodes.setdefault(held.node, _OnNode())
            entry.units += held.units
            entry.ours += held.ours
            entry.keys.add(key)
            self._held[key] = held
        if told:
            return
        if before is not None:
            less = held is None or held.node != before.node or held.units < before.units
            self._changed(before.node, less)
        if held is not None and (before is None or before.node != held.node):
            self._changed(held.node, False)


def _owner_of(pod: PodView | None) -> _Owner | None:
    """(namespace, uid) of the deployment that a pod says it belongs to; None for a pod without our label."""
    if pod is None or pod.deployment is None or pod.owner_uid is None:
        return None
    return pod.namespace, pod.owner_uid


def _reserved(key: str) -> str:
    return f"reserved {key}"  # a space: no pod key contains one
