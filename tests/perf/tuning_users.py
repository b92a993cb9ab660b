"""Users of tuning jobs while everything dies: one posts the same job again and again, one applies a TuningJob, each job
has a reader of its events, and both jobs are paused and resumed."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from typing import Any

import httpx

from tests.perf.tuning_faces import NAMESPACE, TOKEN, Answer, Faces, ask

POSTED, APPLIED = "posted", "applied"
_AGAIN_S = 0.3
_SILENCE_S = 20.0  # the stream has a heartbeat every 15 s
_RESUMED_SOON = 0.6  # jobs that stand still put nothing to the test
_OBJECTS = f"/apis/trimtab.dev/v1alpha1/namespaces/{NAMESPACE}/tuningjobs"


class Poster(threading.Thread):
    """Makes one job with one Idempotency-Key, over and over. `ids`: what the answers called it."""

    def __init__(self, faces: Faces, spec: dict[str, Any]) -> None:
        super().__init__(name="poster")
        self._faces, self._spec = faces, spec
        self._over = threading.Event()
        self.ids: set[str] = set()
        self.statuses: Counter[int] = Counter()

    def run(self) -> None:
        body = {"namespace": NAMESPACE, "name": POSTED, "spec": self._spec}
        while True:
            found = ask("POST", f"{self._faces.api}/v1/tuning-jobs", body, **{"Idempotency-Key": "once"})
            self.statuses[found.status] += 1
            if found.status in (200, 201):
                self.ids.add(found.body["id"])
            if self._over.wait(_AGAIN_S):
                return

    def end(self) -> None:
        self._over.set()
        self.join()


class Reader(threading.Thread):
    """Follows a job's events to their end, and comes back with Last-Event-ID whenever the stream breaks off."""

    def __init__(self, faces: Faces, job: str) -> None:
        super().__init__(name=f"reader of {job}", daemon=True)
        self._url = f"{faces.api}/v1/tuning-jobs/{job}/events"
        self._over = threading.Event()
        self.job = job
        self.last = self.missed = self.twice = self.streams = 0

    def run(self) -> None:
        while not self._over.is_set():
            try:
                if self._follow():
                    return
            except httpx.TransportError:
                pass
            self._over.wait(_AGAIN_S)

    def end(self) -> None:
        self._over.set()

    def _follow(self) -> bool:
        """Whether the job's end was told."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Last-Event-ID": str(self.last)}
        with httpx.stream("GET", self._url, headers=headers, timeout=_SILENCE_S) as answer:
            if answer.status_code != 200:
                return False
            self.streams += 1
            frame: dict[str, str] = {}
            for line in answer.iter_lines():
                if self._over.is_set():
                    return False
                name, _, value = line.partition(": ")
                if line:
                    frame[name] = value
                    continue
                if frame.get("event") == "end":
                    return bool(json.loads(frame["data"]) == {"reason": "JobEnded"})
                if "id" in frame:
                    self._event(int(frame["id"]))
                frame = {}
        return False

    def _event(self, number: int) -> None:
        self.twice += number <= self.last
        self.missed += max(0, number - self.last - 1)
        self.last = max(self.last, number)


class Steerer:
    """Pauses both jobs now and then, each on both ways where it has both, and never for good: what was paused and not yet
    resumed is `owed`."""

    def __init__(self, faces: Faces, rng: random.Random) -> None:
        self._faces, self._rng = faces, rng
        self.owed: set[str] = set()

    def apply(self, spec: dict[str, Any]) -> str:
        """The TuningJob; its uid."""
        body = {
            "apiVersion": "trimtab.dev/v1alpha1",
            "kind": "TuningJob",
            "metadata": {"name": APPLIED, "namespace": NAMESPACE},
            "spec": spec,
        }
        made = ask("POST", f"{self._faces.kubernetes}{_OBJECTS}", body)
        return str(made.body["metadata"]["uid"])

    def object(self) -> dict[str, Any]:
        """The TuningJob as it stands."""
        return ask("GET", f"{self._faces.kubernetes}{_OBJECTS}/{APPLIED}").body

    def turn(self, ids: list[str]) -> str | None:
        """Pause something, or resume it; the word for what was done. None: nobody answered."""
        resuming = self.owed and self._rng.random() < _RESUMED_SOON
        way = self._rng.choice(sorted(self.owed) if resuming else [*ids, APPLIED])
        pausing = way not in self.owed
        if pausing:
            self.owed.add(way)  # before asking: the answer may be lost and the pause not
        if not self._say(way, pausing=pausing):
            return None
        if not pausing:
            self.owed.discard(way)
        return "pause" if pausing else "resume"

    def settle(self) -> None:
        """Resume what can be."""
        for way in sorted(self.owed):
            if self._say(way, pausing=False):
                self.owed.discard(way)

    def _say(self, way: str, *, pausing: bool) -> bool:
        if way == APPLIED:
            url = f"{self._faces.kubernetes}{_OBJECTS}/{APPLIED}"
            merge = {"Content-Type": "application/merge-patch+json"}
            return ask("PATCH", url, {"spec": {"suspend": pausing}}, **merge).status == 200
        found = ask("POST", f"{self._faces.api}/v1/tuning-jobs/{way}/{'pause' if pausing else 'resume'}")
        return self._settled(found)

    @staticmethod
    def _settled(found: Answer) -> bool:
        """A job that has ended needs no resuming."""
        return found.status in (200, 409)
