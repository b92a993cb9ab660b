"""A cluster and an operator in a few dictionaries: nodes, pods, a scheduler, kubelets that obey the test's orders."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controlplane.model import labels
from controlplane.model.actions import (
    Action,
    Apply,
    AwaitRoom,
    CreatePod,
    Delete,
    DeletePod,
    Record,
    Remember,
    Requeue,
    WriteStatus,
)
from controlplane.model.cluster import NodeFacts
from controlplane.model.serving import ServingDeployment, ServingDeploymentStatus
from operators.placement import Fleet, GangRequest, Placement, PoolSupply, Refusal
from operators.serving.owned import shape_of
from operators.serving.plan import decide
from operators.serving.render import RenderSettings, ReplicaTemplate, replica_template
from operators.serving.snapshot import NodeState, Notes, PlanSettings, Snapshot
from operators.serving.validate import validate
from operators.workloads.podview import PodView
from tests.unit.serving.cases import CATALOG, ROUTERS

UID = "5e0c1b1a-0000-4000-8000-000000000001"
NAME, NAMESPACE = "chat", "prod"
H100, L40S = "h100-sxm-80gb", "l40s"
SETTINGS = PlanSettings(render=RenderSettings(routers=ROUTERS))
START_S = 1_800_000_000.0


def choice(accelerator: str = H100, **more: Any) -> dict[str, Any]:
    """One accelerator per replica."""
    return {"accelerator": accelerator, "engine": "vllm", **more}


def deployment(*choices: dict[str, Any], generation: int = 1, status: Any = None, **spec: Any) -> ServingDeployment:
    """A deployment of Llama 3.1 8B; `spec` in camelCase."""
    return ServingDeployment.model_validate(
        {
            "metadata": {"name": NAME, "namespace": NAMESPACE, "uid": UID, "generation": generation},
            "spec": {
                "model": {"name": "llama-3.1-8b", "source": "pvc:models/llama"},
                "explicit": {"choices": list(choices) or [choice()]},
                **spec,
            },
            "status": {} if status is None else status,
        }
    )


def templates_of(wanted: ServingDeployment) -> tuple[ReplicaTemplate, ...]:
    """What the controller renders for a valid spec."""
    return tuple(replica_template(wanted, index, CATALOG, SETTINGS.render) for index in range(len(wanted.spec.choices)))


@dataclass
class Node:
    """`state` as the node's own kubelet makes it."""

    name: str
    accelerator: str
    units: int
    state: NodeState = NodeState.READY


class Placer:
    """The real fleet over the nodes, minus what `pods` hold."""

    def __init__(self, nodes: dict[str, Node], pods: list[PodView]) -> None:
        self.fleet = Fleet()
        self.used = dict.fromkeys(nodes, 0)
        for accelerator in sorted({node.accelerator for node in nodes.values()}):
            self.fleet.set_pool(PoolSupply(f"pool-{accelerator}", accelerator))
        for node in nodes.values():
            if node.state is not NodeState.GONE:
                facts = NodeFacts(
                    node.name,
                    node.accelerator,
                    "nvidia.com/gpu",
                    node.units,
                    None,
                    None,
                    {},
                    ready=node.state is NodeState.READY,
                )
                self.fleet.set_node(f"pool-{node.accelerator}", facts)
        for pod in pods:
            where = pod.node_name or pod.target_node
            if where in self.used and not pod.terminal:
                self.used[where] += pod.units or 0
        for name, units in self.used.items():
            self.fleet.set_used(name, units)

    def place(self, request: GangRequest) -> Placement | Refusal:
        return self.fleet.place(request)

    def hold(self, _key: str, node: str, units: int) -> None:
        self.used[node] += units
        self.fleet.set_used(node, self.used[node])

    def tolerations(self, _pool: str) -> tuple[()]:
        return ()

    def domain_of(self, node: str, level: Any) -> str | None:
        return self.fleet.domain_of(node, level)


@dataclass
class World:
    """What is true. `cache` is what the operator sees: the truth, or an older truth while it lags."""

    nodes: dict[str, Node] = field(default_factory=dict)
    pods: dict[str, PodView] = field(default_factory=dict)
    now_s: float = START_S
    wanted: ServingDeployment = field(default_factory=deployment)
    notes: Notes = field(default_factory=Notes)
    owned: dict[tuple[str, str], Any] = field(default_factory=dict)
    events: list[Record] = field(default_factory=list)
    status_writes: int = 0
    lag: dict[str, PodView] | None = None
    doomed: set[str] = field(default_factory=set)
    shares: dict[int, int] = field(default_factory=dict)
    waits: bool = False
    again_s: float | None = None
    _prepared: tuple[Any, Any, Any] | None = None
    _uids: Any = field(default_factory=lambda: itertools.count(1))

    def add_nodes(self, accelerator: str, count: int, units: int = 1) -> None:
        for number in range(count):
            name = f"{accelerator}-{number}"
            self.nodes[name] = Node(name, accelerator, units)

    # ---- the user

    def apply(self, wanted: ServingDeployment) -> None:
        """Store a spec as `kubectl apply` does."""
        generation = self.wanted.metadata.generation + (wanted.spec != self.wanted.spec)
        metadata = wanted.metadata.model_copy(update={"generation": generation})
        self.wanted = wanted.model_copy(update={"metadata": metadata, "status": self.wanted.status})

    # ---- the operator

    def snapshot(self) -> Snapshot:
        """What the controller would hand to the decision."""
        shown = list((self.pods if self.lag is None else self.lag).values())
        if self.lag is not None:
            # The runtime absorbs the answers of our own creations and remembers our deletions.
            known = {pod.name for pod in shown}
            shown += [pod for pod in self.pods.values() if pod.name not in known]
        view = [
            msgspec.structs.replace(pod, deleting_s=int(self.now_s) + 3600)
            if pod.uid in self.doomed and not pod.deleting
            else pod
            for pod in shown
        ]
        if self._prepared is None or self._prepared[0] is not self.wanted.spec:
            errors = tuple(validate(self.wanted, CATALOG, SETTINGS.render))
            self._prepared = (self.wanted.spec, errors, () if errors else templates_of(self.wanted))
        return Snapshot(
            deployment=self.wanted,
            templates=self._prepared[2],
            errors=self._prepared[1],
            pods=view,
            placer=Placer(self.nodes, view),
            node_state=lambda name: self.nodes[name].state if name in self.nodes else NodeState.GONE,
            owned=dict(self.owned),
            notes=self.notes,
            shares=self.shares,
        )

    def decide(self) -> list[Action]:
        """One decision, not carried out."""
        return decide(self.snapshot(), SETTINGS, self.now_s)

    def step(self, crash_after: int | None = None) -> list[Action]:
        """Decide and act. `crash_after`: the process dies after so many actions and forgets its notes."""
        actions = self.decide()
        self.waits, self.again_s = False, None
        for number, action in enumerate(actions):
            if crash_after is not None and number >= crash_after:
                self.restart()
                return actions
            self._act(action)
        return actions

    def restart(self) -> None:
        """A new process: no notes, a fresh list."""
        self.notes, self.lag, self.doomed = Notes(), None, set()

    def settle(self, steps: int = 40) -> None:
        """Let the operator, the scheduler and healthy kubelets work until nothing changes."""
        for _ in range(steps):
            before = (dict(self.pods), self.wanted.status)
            self.step()
            self.schedule()
            self.run_all()
            self.end_all()
            if (dict(self.pods), self.wanted.status) == before:
                return
            self.now_s += 1
        raise AssertionError(f"not settled after {steps} steps: {self.summary()}")

    def _act(self, action: Action) -> None:
        match action:
            case CreatePod():
                self._create(action)
            case DeletePod():
                for pod in list(self.pods.values()):
                    if pod.uid == action.uid:
                        self._delete(pod, action.grace_s)
            case Apply():
                self.owned[action.resource, action.manifest["metadata"]["name"]] = shape_of(
                    action.resource, action.manifest
                )
            case Delete():
                del self.owned[action.resource, action.name]
            case Record():
                self.events.append(action)
            case WriteStatus():
                status = ServingDeploymentStatus.model_validate(action.status)
                if status != self.wanted.status:
                    self.status_writes += 1
                self.wanted = self.wanted.model_copy(update={"status": status})
            case Remember():
                assert isinstance(action.notes, Notes)
                self.notes = action.notes
            case AwaitRoom():
                self.waits = True
            case Requeue():
                self.again_s = action.after_s

    def _create(self, action: CreatePod) -> None:
        meta = action.manifest["metadata"]
        name, ours = meta["name"], meta["labels"]
        if name in self.pods:
            return  # 409 AlreadyExists: adopted
        self.pods[name] = PodView(
            name=name,
            namespace=NAMESPACE,
            uid=f"pod-{next(self._uids)}",
            resource_version="1",
            phase="Pending",
            owner_uid=meta["ownerReferences"][0]["uid"],
            target_node=action.node,
            created_s=int(self.now_s),
            deployment=ours[labels.DEPLOYMENT],
            revision=ours[labels.REVISION],
            replica=int(ours[labels.REPLICA]),
            rank=int(ours[labels.RANK]),
            pool=ours[labels.POOL],
            accelerator=ours[labels.ACCELERATOR],
            role=ours.get(labels.ROLE),
            engine=ours[labels.ENGINE],
            units=int(meta["annotations"][labels.UNITS]),
            choice=int(meta["annotations"][labels.CHOICE]),
        )

    def _delete(self, pod: PodView, grace_s: int) -> None:
        self.doomed.add(pod.uid)
        if grace_s == 0 or pod.node_name is None or pod.terminal:
            del self.pods[pod.name]
        else:
            self.change(pod.name, deleting_s=int(self.now_s) + grace_s)

    # ---- the cluster

    def change(self, name: str, **fields: Any) -> None:
        """Set fields of a pod."""
        self.pods[name] = msgspec.structs.replace(self.pods[name], **fields)

    def schedule(self) -> None:
        """Bind what fits; say Unschedulable of the rest."""
        for pod in list(self.pods.values()):
            if pod.node_name is not None or pod.deleting:
                continue
            node = self.nodes.get(pod.target_node or "")
            held = sum(
                other.units or 0
                for other in self.pods.values()
                if other.node_name == pod.target_node and not other.terminal
            )
            if node is None or node.state is not NodeState.READY or held + (pod.units or 0) > node.units:
                self.change(pod.name, unschedulable_reason="Unschedulable")
            else:
                self.change(pod.name, node_name=node.name, scheduled=True, unschedulable_reason=None)

    def _reachable(self, pod: PodView) -> bool:
        node = self.nodes.get(pod.node_name or "")
        return node is not None and node.state is NodeState.READY

    def run(self, name: str) -> None:
        """The engine of a bound pod answers."""
        pod = self.pods[name]
        if self._reachable(pod) and not pod.terminal:
            now_s = int(self.now_s)
            changed = pod.ready_changed_s if pod.ready else now_s
            self.change(
                name,
                phase="Running",
                ready=True,
                started_s=pod.started_s or now_s,
                ready_changed_s=changed,
                waiting_reason=None,
                waiting_message=None,
                exit_code=None,
            )

    def run_all(self) -> None:
        for pod in list(self.pods.values()):
            if not pod.deleting and pod.waiting_reason is None:
                self.run(pod.name)

    def end(self, name: str) -> None:
        """A leaving pod has drained."""
        if self.pods[name].deleting and self._reachable(self.pods[name]):
            del self.pods[name]

    def end_all(self) -> None:
        for pod in list(self.pods.values()):
            self.end(pod.name)

    def silence(self, node: str) -> None:
        """The kubelet stops; the node controller marks node and pods."""
        self.nodes[node].state = NodeState.SILENT
        for pod in list(self.pods.values()):
            if pod.node_name == node and pod.ready:
                self.change(pod.name, ready=False, ready_changed_s=int(self.now_s))

    # ---- what a test asks

    def ready(self) -> int:
        """Replicas of one pod that answer."""
        return sum(pod.ready and not pod.deleting for pod in self.pods.values())

    def alive(self) -> list[PodView]:
        return [pod for pod in self.pods.values() if not pod.deleting]

    def reason(self, kind: str = "Ready") -> str:
        return next(c.reason for c in self.wanted.status.conditions if c.type == kind)

    def condition(self, kind: str = "Ready") -> Any:
        return next(c for c in self.wanted.status.conditions if c.type == kind)

    def summary(self) -> list[tuple[Any, ...]]:
        return [(p.name, p.node_name, p.phase, p.ready, p.deleting, p.waiting_reason) for p in self.pods.values()]
