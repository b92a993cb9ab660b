"""What a decision is made from, and what it may remember for the next one. Types only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol

from controlplane.model.auto import PlanStatus
from controlplane.model.canary import StableRevision
from controlplane.model.cluster import PoolToleration, TopologyLevel
from controlplane.model.errors import TrimtabError
from controlplane.model.live import LiveReading
from controlplane.model.roles import ReplicaRole
from controlplane.model.serving import ServingDeployment, ServingDeploymentSpec
from operators.placement import GangRequest, Placement, Refusal
from operators.serving.canary_watch import Watch
from operators.serving.owned import Shape
from operators.serving.reasons import Reason
from operators.serving.render import RenderSettings, ReplicaTemplate
from operators.workloads.podview import PodView


class NodeState(Enum):
    """A node as far as its pods are concerned."""

    READY = "ready"
    SILENT = "silent"  # its kubelet does not report
    GONE = "gone"  # there is no such Node object


class Placer(Protocol):
    """Room for gangs. What one decision holds, its next question sees as taken."""

    def place(self, request: GangRequest) -> Placement | Refusal: ...

    def hold(self, pod_key: str, node: str, units: int) -> None:
        """Take room for the pod `namespace/name`."""

    def tolerations(self, pool: str) -> Sequence[PoolToleration]:
        """Taints that the pool's nodes carry on purpose."""

    def domain_of(self, node: str, level: TopologyLevel) -> str | None: ...


@dataclass(frozen=True, slots=True)
class BackOff:
    """A revision whose replicas failed: no new attempt before `until_s`."""

    failures: int
    last_s: float
    until_s: float
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Taken:
    """An object of ours that cannot be written: its name belongs to somebody else's."""

    resource: str
    message: str


@dataclass(frozen=True, slots=True)
class Outlook:
    """The plan in force, the Planned condition, when to look again. `news`: the plan changed just now, and why."""

    plan: PlanStatus | None
    status: Literal["True", "False"]
    reason: Reason
    message: str
    again_s: float | None = None
    news: str | None = None


@dataclass(frozen=True, slots=True)
class Stable:
    """The revision that a rollback goes back to: today's spec with its pods, and their templates unless there are errors.
    `revisions`: names that its pods had when it was rolled out, which are others where another version rendered it."""

    spec: ServingDeploymentSpec
    templates: tuple[ReplicaTemplate, ...]
    errors: tuple[TrimtabError, ...] = ()
    revisions: frozenset[str] = frozenset()

    @property
    def known(self) -> frozenset[str]:
        """Every name that a pod of it may have."""
        return self.revisions.union(template.revision for template in self.templates)


@dataclass(frozen=True, slots=True)
class Notes:
    """What one decision leaves for the next; empty after a restart. Times in epoch seconds.

    `back_off` is by revision, `avoid` says until when a node is not used, `better_since_s` since when a better choice
    could have been placed without a break; `better_by_role` is that for each of separate roles. `canary` is the window
    under way.
    """

    back_off: Mapping[str, BackOff] = field(default_factory=dict)
    avoid: Mapping[str, float] = field(default_factory=dict)
    better_since_s: float | None = None
    better_by_role: Mapping[ReplicaRole, float] = field(default_factory=dict)
    canary: Watch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What an installation may tune. Durations in seconds.

    `lost_race_after_s`: a pod the scheduler cannot bind to its node is placed anew after this age. `avoid_node_s`: how
    long that node is then left alone. `silent_after_s`: a replica on a node that does not report is replaced after
    being unready for so long. `unready_grace_s`: an old replica that was ready counts as useful for so long during a
    rollout. `back_off_*`: between attempts of a revision that fails (kubelet: 10 s doubling to 300 s). `better_after_s`:
    how long a better choice must have had room before a replica moves. `batch_pods`: most pods created by one decision.
    """

    render: RenderSettings = field(default_factory=RenderSettings)
    lost_race_after_s: float = 5.0
    avoid_node_s: float = 60.0
    silent_after_s: float = 20.0
    unready_grace_s: float = 30.0
    back_off_base_s: float = 10.0
    back_off_max_s: float = 300.0
    better_after_s: float = 60.0
    batch_pods: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One deployment and what the caches show of it.

    `templates`: one per choice, in order; empty when there are `errors`. `pods`: all that carry the deployment's name,
    other owners' too. `owned`: shapes of our Services and budget by (resource, name) as the API server has them.
    `taken`: which of them could not be written last time. `outlook`: of an auto deployment, whose planned choices stand
    in `deployment.spec` like explicit ones. `router_ready`: whether the router's pod answers, where it is ours to start. `role`: of separate roles, the one that this is about (see `parts`).
    `shares`: replicas of each choice of a planned mix, by position; empty where any split will do.
    `record`: what status.stable becomes once this spec is rolled out; `stable`: what it is now. `live`: the engines'
    counters as last read. `part`: of a deployment with a canary, which of both revisions this is about.
    """

    deployment: ServingDeployment
    templates: tuple[ReplicaTemplate, ...]
    pods: Sequence[PodView]
    placer: Placer
    node_state: Callable[[str], NodeState]
    errors: tuple[TrimtabError, ...] = ()
    owned: Mapping[tuple[str, str], Shape] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)
    taken: tuple[Taken, ...] = ()
    outlook: Outlook | None = None
    router_ready: bool = True
    shares: Mapping[int, int] = field(default_factory=dict)
    role: ReplicaRole = "Aggregated"
    record: StableRevision | None = None
    stable: Stable | None = None
    live: LiveReading | None = None
    part: Literal["Whole", "Stable", "Canary"] = "Whole"
