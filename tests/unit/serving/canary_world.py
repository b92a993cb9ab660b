"""The simulated cluster with clients: pods that answer count requests, tokens and seconds as engines do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import msgspec
import numpy as np

from controlplane.model import labels
from controlplane.model.actions import Action, CreatePod, ReadEngines
from controlplane.model.canary import CanaryStatus
from controlplane.model.live import EngineCounters, LiveReading
from controlplane.model.serving import ServingDeployment
from operators.serving import revision
from operators.serving.owned import SERVICES
from operators.serving.snapshot import Snapshot, Stable
from operators.serving.stable import recorded, with_stable
from operators.workloads.podview import PodView
from tests.unit.serving.simulation import H100, NAME, World, choice, deployment, templates_of

HOLD = {"leastSeconds": 60, "mostSeconds": 900, "windowSeconds": 5}
_TOKENS = 40
_IDLE = EngineCounters(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def wanted(seqs: int = 256, canary: dict[str, Any] | None = None, **spec: Any) -> ServingDeployment:
    """A deployment whose pods differ by one knob."""
    rollout = {**spec.pop("rollout", {}), "canary": {"hold": HOLD} if canary is None else canary}
    return deployment(choice(knobs={"maxNumSeqs": seqs}), rollout=rollout, **spec)


@dataclass
class CanaryWorld(World):
    """`slow`: by how much a revision is slower than 1, for TTFT and TPOT. `rate`: requests per second of all clients."""

    slow: Callable[[str], float] = field(default=lambda _: 1.0)
    rate: float = 20.0
    scatter: float = 0.5
    fails: Callable[[str], float] = field(default=lambda _: 0.0)
    pages: bool = True
    counters: dict[str, EngineCounters] = field(default_factory=dict)
    live: LiveReading | None = None
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    unserved: int = 0
    due_s: float = 0.0
    served: list[str | None] = field(default_factory=list)
    stuck: set[str] = field(default_factory=set)  # revisions whose engines never become ready
    mute: set[str] = field(default_factory=set)  # revisions, or pods, whose engines take requests and answer none

    @classmethod
    def running(cls, replicas: int = 2, nodes: int = 8, seed: int = 1, **fields: Any) -> CanaryWorld:
        """At rest on the first revision."""
        made = cls(rng=np.random.default_rng(seed), **fields)
        made.add_nodes(H100, nodes)
        made.apply(wanted(replicas=replicas))
        made.settle()
        assert made.wanted.status.stable is not None
        made.due_s = made.now_s
        return made

    @property
    def canary(self) -> CanaryStatus:
        found = self.wanted.status.canary
        assert found is not None
        return found

    @property
    def phase(self) -> str | None:
        return None if self.wanted.status.canary is None else self.wanted.status.canary.phase

    def revision(self) -> str:
        """What the spec renders."""
        return templates_of(self.wanted)[0].revision

    def alive_of(self, name: str) -> list[PodView]:
        return [pod for pod in self.alive() if pod.revision == name]

    def snapshot(self) -> Snapshot:
        found = super().snapshot()
        now = self.wanted.status.stable
        revisions = [template.revision for template in found.templates]
        record = recorded(self.wanted.spec, revisions) if revisions else None
        stable = None
        if (
            self.wanted.spec.rollout.canary is not None
            and now is not None
            and (record is None or record.spec != now.spec)
        ):
            held = with_stable(self.wanted.spec, now)
            templates = templates_of(self.wanted.model_copy(update={"spec": held}))
            stable = Stable(held, templates, revisions=frozenset(now.revisions))
        return replace(found, record=record, stable=stable, live=self.live)

    def run(self, name: str) -> None:
        if self.pods[name].revision not in self.stuck:
            super().run(name)

    def restart(self) -> None:
        super().restart()
        self.live = None
        self._prepared = None

    @contextmanager
    def upgraded(self, rendering: int = 2) -> Iterator[None]:
        """Another version of the operator takes over, which renders every pod as another revision."""
        with patch.object(revision, "_RENDERING", rendering):
            self.restart()
            yield

    def watch(self, seconds: float, until: Callable[[], bool] = lambda: False, step_s: float = 0.5) -> None:
        """Clients, kubelets and the operator work for so long, or until something is true."""
        ends_s = self.now_s + seconds
        while self.now_s < ends_s and not until():
            self.now_s += step_s
            self.traffic(step_s)
            self.schedule()
            self.run_all()
            self.end_all()
            if self.now_s >= self.due_s:
                read = self.live
                self.step()
                # Figures that are there wake the operator, whatever else it waits for.
                pause_s = min(5.0, self.again_s or 5.0) if self.live is read else 0.01
                self.due_s = self.now_s + pause_s

    def _act(self, action: Action) -> None:
        if isinstance(action, ReadEngines):
            here = {pod.uid for pod in self.pods.values()}
            counters = {pod.uid: self.counters.get(pod.uid, _IDLE) for pod in action.pods}
            kept = {uid: found for uid, found in counters.items() if uid in here and self.pages}
            self.live = LiveReading(self.now_s, kept)
        else:
            super()._act(action)

    def _create(self, action: CreatePod) -> None:
        super()._create(action)
        name = action.manifest["metadata"]["name"]
        self.pods[name] = msgspec.structs.replace(self.pods[name], pod_ip="10.0.0.1")

    def traffic(self, seconds: float) -> None:
        """Every request goes to one of the pods that the Service selects."""
        shape = self.owned[SERVICES, NAME]
        selector = dict(shape[4])
        only = selector.get(labels.REVISION)
        self.served.append(only)
        answering = [pod for pod in self.alive() if pod.ready and (only is None or pod.revision == only)]
        count = int(self.rng.poisson(self.rate * seconds))
        if not answering:
            self.unserved += 1
            return
        load = float(np.exp(0.2 * np.sin(self.now_s / 40)))
        shares = self.rng.multinomial(count, [1 / len(answering)] * len(answering))
        for pod, requests in zip(answering, shares, strict=True):
            self._answer(pod, int(requests), load * self.slow(str(pod.revision)))

    def _answer(self, pod: PodView, requests: int, factor: float) -> None:
        before = self.counters.get(pod.uid, _IDLE)
        if not requests:
            return
        if {pod.revision, pod.uid} & self.mute:
            self.counters[pod.uid] = replace(before, in_flight=(before.in_flight or 0) + requests)
            return
        shape = requests / self.scatter**2
        ttft_s = 0.2 * factor * float(self.rng.gamma(shape, self.scatter**2))
        tpot_s = 0.02 * factor * _TOKENS * float(self.rng.gamma(shape, self.scatter**2))
        failed = int(self.rng.binomial(requests, self.fails(str(pod.revision))))
        self.counters[pod.uid] = EngineCounters(
            (before.ttft_sum_s or 0) + ttft_s,
            (before.ttft_count or 0) + requests,
            (before.tpot_sum_s or 0) + tpot_s,
            (before.tpot_count or 0) + _TOKENS * requests,
            (before.ended or 0) + requests,
            (before.failed or 0) + failed,
            before.in_flight,
        )
