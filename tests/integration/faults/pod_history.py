"""Every state that the pods of a deployment go through, and the promises that each of them must keep."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from typing import Any

from tests.integration.faults.rest import Refused, Rest
from tests.integration.faults.serving_objects import leaving, place, ready

_STREAM_S = 60


class PodHistory:
    """`with PodHistory(...)`: at no moment more than `most` whole replicas that stay, nor fewer than `least` ready ones.

    A replica of which one of its `ranks` pods leaves is leaving. `least` may be raised once that many are there. A watch shows each state of each pod in order, so nothing between
    two looks is missed; after a lost watch it starts from a list.
    """

    def __init__(self, rest: Rest, namespace: str, name: str, *, most: int, least: int = 0, ranks: int = 1) -> None:
        self.most, self.least = most, least
        self._ranks = ranks
        self.broken: list[str] = []
        self.places: dict[tuple[str, str, str], set[str]] = {}
        self._rest = rest
        self._name = name
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._pods: dict[str, Any] = {}
        self._ended = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> PodHistory:
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._ended.set()
        if kind is None:
            assert not self.broken, "\n".join(self.broken)

    def wait_revision_beside(self, old: set[str], patience_s: float) -> None:
        """Until a pod of another revision than these exists."""
        with self._changed:
            assert self._changed.wait_for(lambda: {where[0] for where in self.places} - old, patience_s)

    def _follow(self) -> None:
        while not self._ended.is_set():
            try:
                found = self._rest.get(self._path)
                self._pods = {p["metadata"]["uid"]: p for p in found["items"] if self._ours(p)}
                self._judge()
                for event in self._rest.watch(self._path, found["metadata"]["resourceVersion"], _STREAM_S):
                    if self._ended.is_set() or event["type"] == "ERROR":
                        break
                    self._take(event)
            except (OSError, http.client.HTTPException, Refused):
                self._ended.wait(0.2)
        self._rest.close()

    def _ours(self, pod: Any) -> bool:
        return bool(pod["metadata"].get("labels", {}).get("trimtab.dev/deployment") == self._name)

    def _take(self, event: Any) -> None:
        pod = event["object"]
        if not self._ours(pod):
            return
        if event["type"] == "DELETED":
            self._pods.pop(pod["metadata"]["uid"], None)
        else:
            self._pods[pod["metadata"]["uid"]] = pod
        self._judge()

    def _judge(self) -> None:
        ended = ("Failed", "Succeeded")
        staying = [p for p in self._pods.values() if not leaving(p) and p.get("status", {}).get("phase") not in ended]
        there = Counter(place(pod)[:2] for pod in staying)
        answering = Counter(place(pod)[:2] for pod in staying if ready(pod))
        if (count := _whole(there, self._ranks)) > self.most:
            self.broken.append(f"{count} replicas, {self.most} allowed: {_shown(staying)}")
        if (count := _whole(answering, self._ranks)) < self.least:
            self.broken.append(f"{count} replicas ready, {self.least} promised: {_shown(staying)}")
        with self._changed:
            for pod in staying:
                self.places.setdefault(place(pod), set()).add(pod["metadata"]["uid"])
            self._changed.notify_all()


def _whole(pods: Counter[tuple[str, str]], ranks: int) -> int:
    return sum(count == ranks for count in pods.values())


def _shown(pods: list[Any]) -> str:
    return ", ".join(f"{pod['metadata']['name']}{'' if ready(pod) else ' (not ready)'}" for pod in pods)
