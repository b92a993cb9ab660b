"""Whatever users, engines, kubelets and our own crashes do in whatever order: nothing is doubled, nothing that answers
goes before its time, and once the faults end the deployment is as its spec says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from operators.serving.snapshot import NodeState
from operators.workloads.podview import PodView
from tests.unit.serving.simulation import H100, L40S, World, choice, deployment

_NODES = 6  # of one accelerator each: two deployments' worth, so that a surge always fits when all are sound
_MODEL_KNOB = "maxNumSeqs"
_GANG = {"pipelineParallel": 2, "acceleratorsPerPod": 1}


class Deployment(RuleBasedStateMachine):
    """One deployment with two choices, in a cluster that fails. Replicas on the first choice may be gangs of two."""

    @initialize(
        surge=st.integers(0, 2),
        unavailable=st.integers(0, 2),
        better=st.sampled_from(["Never", "WhenFree"]),
        gang=st.booleans(),
    )
    def start(self, surge: int, unavailable: int, better: str, gang: bool) -> None:
        self.world = World()
        self.shape: dict[str, Any] = _GANG if gang else {}
        self.world.add_nodes(H100, _NODES)
        self.world.add_nodes(L40S, _NODES)
        self.spec: dict[str, Any] = {
            "replicas": 2,
            "startupDeadlineSeconds": 300,
            "rollout": {"maxSurge": surge or (0 if unavailable else 1), "maxUnavailable": unavailable},
        }
        self.spec["rollout"]["preferBetter"] = better
        self.version = 8
        self.typo = False
        self.apply()

    def apply(self) -> None:
        accelerator = "h100-smx-80gb" if self.typo else H100
        knobs = {_MODEL_KNOB: self.version}
        self.world.apply(
            deployment(choice(accelerator, knobs=knobs, **self.shape), choice(L40S, knobs=knobs), **self.spec)
        )

    def size(self, pod: PodView) -> int:
        return 2 if self.shape and pod.accelerator == H100 else 1

    def answering(self, pods: Iterable[PodView]) -> int:
        """Replicas of which every pod is ready and stays."""
        pods = [pod for pod in pods if pod.ready and not pod.deleting and not pod.terminal]
        found = Counter((pod.revision, pod.replica, self.size(pod)) for pod in pods)
        return sum(count == size for (_, _, size), count in found.items())

    @property
    def desired(self) -> int:
        return 0 if self.spec.get("suspend") else self.spec["replicas"]

    # ---- the user

    @rule(replicas=st.integers(0, 3))
    def scale(self, replicas: int) -> None:
        self.spec["replicas"] = replicas
        self.apply()

    @rule(version=st.integers(8, 11))
    def edit(self, version: int) -> None:
        self.version = version
        self.apply()

    @rule()
    def toggle_suspend(self) -> None:
        self.spec["suspend"] = not self.spec.get("suspend", False)
        self.apply()

    @rule()
    def toggle_typo(self) -> None:
        self.typo = not self.typo
        self.apply()

    # ---- the operator

    @rule(rounds=st.integers(1, 4))
    def go_well(self, rounds: int) -> None:
        """A while without faults, so that they meet deployments at work and not only empty ones."""
        for _ in range(rounds):
            self.world.now_s += 1
            self.operate_checked(None)
            self.world.schedule()
            self.world.run_all()
            self.world.end_all()

    @rule(crash_after=st.none() | st.integers(0, 6))
    def operate(self, crash_after: int | None) -> None:
        self.operate_checked(crash_after)

    def operate_checked(self, crash_after: int | None) -> None:
        before = self.answering(self.world.snapshot().pods)
        self.world.step(crash_after)
        promised = max(0, self.desired - self.spec["rollout"]["maxUnavailable"])
        if crash_after is None:
            after = self.answering(self.world.snapshot().pods)
            assert after >= min(before, promised), "we took down what had been promised"

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule()
    def lag(self) -> None:
        self.world.lag = None if self.world.lag is not None else dict(self.world.pods)

    # ---- the cluster

    @rule()
    def schedule(self) -> None:
        self.world.schedule()

    @rule(seconds=st.sampled_from([1, 6, 25, 70, 400]))
    def pass_time(self, seconds: int) -> None:
        self.world.now_s += seconds

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data(), what=st.sampled_from(["run", "run", "run", "crash", "image", "recover", "evict", "end"]))
    def happen(self, data: st.DataObject, what: str) -> None:
        world = self.world
        name = data.draw(st.sampled_from(sorted(world.pods)))
        pod = world.pods[name]
        if what == "end":
            world.end(name)
        elif pod.node_name is None or pod.terminal or pod.deleting:
            return
        elif what == "run" and pod.waiting_reason is None:
            world.run(name)
        elif what == "crash" and self.size(pod) > 1:
            world.change(name, phase="Failed", ready=False, exit_code=1)  # restartPolicy Never
        elif what == "crash":
            now_s = int(world.now_s)
            world.change(name, ready=False, ready_changed_s=now_s, waiting_reason="CrashLoopBackOff", exit_code=1)
        elif what == "image" and pod.started_s is None:
            world.change(name, waiting_reason="ImagePullBackOff")
        elif what == "recover":
            world.change(name, waiting_reason=None)
        elif what == "evict":
            world.change(name, phase="Failed", ready=False, status_reason="Evicted")

    @rule(number=st.integers(0, _NODES - 1), accelerator=st.sampled_from([H100, L40S]), gone=st.booleans())
    def lose_node(self, number: int, accelerator: str, gone: bool) -> None:
        name = f"{accelerator}-{number}"
        self.world.silence(name)
        if gone:
            self.world.nodes[name].state = NodeState.GONE

    @rule(number=st.integers(0, _NODES - 1), accelerator=st.sampled_from([H100, L40S]))
    def revive_node(self, number: int, accelerator: str) -> None:
        self.world.nodes[f"{accelerator}-{number}"].state = NodeState.READY

    # ---- what always holds

    @invariant()
    def nothing_is_doubled(self) -> None:
        places = [(pod.revision, pod.replica, pod.rank) for pod in self.world.pods.values()]
        assert len(places) == len(set(places))

    @invariant()
    def nothing_is_over_committed(self) -> None:
        held: dict[str, int] = {}
        for pod in self.world.pods.values():
            if pod.node_name is not None and not pod.terminal:
                held[pod.node_name] = held.get(pod.node_name, 0) + (pod.units or 0)
        assert all(units <= self.world.nodes[node].units for node, units in held.items())

    def teardown(self) -> None:
        """The faults end; a user with a valid spec gets what it says."""
        if not hasattr(self, "world"):
            return
        world = self.world
        self.typo = False
        self.apply()
        world.lag = None
        for node in world.nodes.values():
            node.state = NodeState.READY
        for pod in list(world.pods.values()):
            world.change(pod.name, waiting_reason=None)
        for _ in range(60):  # longer than any back-off, avoidance or pause for a better choice
            world.now_s += 30
            world.step()
            world.schedule()
            world.run_all()
            world.end_all()
        world.step()
        alive = world.alive()
        assert self.answering(alive) == self.desired, world.summary()
        revisions = {template.revision for template in world.snapshot().templates}
        assert all(pod.revision in revisions for pod in alive), world.summary()
        assert sum(1 / self.size(pod) for pod in world.pods.values()) == self.desired, world.summary()
        assert world.condition().status == ("False" if self.spec.get("suspend") else "True")
        if self.spec["rollout"]["preferBetter"] == "WhenFree":
            assert all(pod.accelerator == H100 for pod in alive), world.summary()


TestDeployment = Deployment.TestCase
TestDeployment.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
