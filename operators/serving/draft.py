"""A decision in the making: what has been settled so far, for the steps that follow and for the status."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from controlplane.model.actions import Action, CreatePod, DeletePod, Record
from operators.placement import Refusal
from operators.serving.placing import Placed
from operators.serving.render import ReplicaTemplate, grace_s, pod
from operators.serving.repair import Repair
from operators.serving.replicas import Gathered, Replica, Trouble
from operators.serving.shares import counts_of
from operators.serving.snapshot import BackOff, Notes, PlanSettings, Snapshot
from operators.workloads.podview import PodView


@dataclass(frozen=True, slots=True)
class Made:
    """A replica that this decision creates."""

    template: ReplicaTemplate
    pool: str


@dataclass(slots=True)
class Draft:
    """`kept`: replicas that stay as they are. `refused`: what a missing replica waits for. `held`: the revision whose
    next attempt has to wait."""

    snapshot: Snapshot
    settings: PlanSettings
    now_s: float
    gathered: Gathered
    kept: list[Replica]
    made: list[Made] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    refusals: dict[int, Refusal] = field(default_factory=dict)
    refused: Refusal | None = None
    held: BackOff | None = None
    repaired: list[Repair] = field(default_factory=list)
    trouble: Trouble | None = None
    stalled: bool = False
    no_room: bool = False
    wants_better: bool = False
    moving: bool = False
    look_again_s: list[float] = field(default_factory=list)
    back_off: dict[str, BackOff] = field(default_factory=dict)
    avoid: dict[str, float] = field(default_factory=dict)
    better_since_s: float | None = None

    @property
    def desired(self) -> int:
        """Replicas wanted now."""
        spec = self.snapshot.deployment.spec
        return 0 if spec.suspend else spec.replicas

    @property
    def counts(self) -> Counter[int]:
        """Replicas of today's choices that stay or are made, by position of the choice."""
        return counts_of(self.kept) + Counter(made.template.choice_index for made in self.made)

    @property
    def notes(self) -> Notes:
        """What the next decision is told."""
        return Notes(self.back_off, self.avoid, self.better_since_s)

    def later(self, moment_s: float) -> None:
        """Look again at that moment (epoch seconds)."""
        self.look_again_s.append(max(1.0, moment_s - self.now_s))

    def record(self, kind: str, reason: str, message: str) -> None:
        """An event for people."""
        self.actions.append(Record("Warning" if kind == "Warning" else "Normal", reason, message))

    def remove(self, replica: Replica, why: str) -> None:
        """All pods of a replica leave, and drain."""
        self.remove_pods(replica.alive, why)
        self.kept.remove(replica)

    def remove_pods(self, pods: tuple[PodView, ...], why: str) -> None:
        """These pods leave; each has the deployment's drain time to finish."""
        grace = grace_s(self.snapshot.deployment, self.settings.render)
        for view in pods:
            self.actions.append(DeletePod(view.name, view.uid, grace, why))

    def make(self, placed: Placed, slot: int) -> None:
        """Create every pod of a new replica."""
        for rank, node in enumerate(placed.placement.nodes):
            self.make_pod(placed.template, slot, rank, node, placed.placement.pool)
        self.made.append(Made(placed.template, placed.placement.pool))

    def make_pod(self, template: ReplicaTemplate, slot: int, rank: int, node: str, pool: str) -> None:
        """Create one pod on a node that has room for it."""
        deployment = self.snapshot.deployment
        tolerations = self.snapshot.placer.tolerations(pool)
        manifest = pod(template, deployment, slot, rank, node, pool, tolerations)
        self.actions.append(CreatePod(manifest, node, template.units_per_pod))
