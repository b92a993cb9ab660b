"""The inventory: membership, usage and reservations, event by event."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.catalog import load
from controlplane.model.cluster import GPUPoolSpec
from operators.placement import GangRequest, Placement, Reason, Refusal
from operators.pools.inventory import Inventory
from operators.pools.rows import NodeView
from operators.pools.selectors import matches
from operators.workloads.podview import PodView

CATALOG = load()
OWNER = "uid-of-d"
PRODUCTS = {"h100": "NVIDIA-H100-80GB-HBM3", "l4": "NVIDIA-L4"}


def node(name: str, kind: str | None = "h100", gpus: int = 8, **more: Any) -> NodeView:
    labels = {"kubernetes.io/arch": "amd64", **more.pop("labels", {})}
    if kind is not None:
        labels |= {"kind": kind, "nvidia.com/gpu.product": PRODUCTS[kind], "nvidia.com/gpu.present": "true"}
    return NodeView(
        namespace="",
        name=name,
        uid=name,
        resource_version=str(more.pop("version", 1)),
        labels=tuple(sorted(labels.items())),
        ready=more.pop("ready", True),
        allocatable=(("cpu", 64_000), *((("nvidia.com/gpu", gpus),) if kind is not None else ())),
        **more,
    )


def pod(name: str, **more: Any) -> PodView:
    gpus = more.pop("gpus", 0)
    cpu = more.pop("cpu", 0)
    requests = tuple(item for item in (("cpu", cpu), ("nvidia.com/gpu", gpus)) if item[1])
    return PodView(
        name=name,
        namespace="ns",
        uid=more.pop("uid", name),
        resource_version="1",
        phase=more.pop("phase", "Running"),
        requests=requests,
        **more,
    )


def ours(name: str, units: int, **more: Any) -> PodView:
    return pod(name, deployment="d", owner_uid=OWNER, accelerator="h100-sxm-80gb", gpus=units, **more)


def spec(**more: Any) -> GPUPoolSpec:
    return GPUPoolSpec.model_validate(more)


def h100(**more: Any) -> GPUPoolSpec:
    return spec(nodeSelector={"matchLabels": {"kind": "h100"}}, **more)


def inventory(*names: str, pool: GPUPoolSpec | None = None) -> Inventory:
    made = Inventory(CATALOG)
    made.set_owner("ns", OWNER)
    made.set_pool("a", pool or h100())
    for name in names:
        made.set_node(node(name))
    return made


def free(made: Inventory, pool: str = "a") -> int:
    return made.fleet.totals(pool).free


def test_bound_pods_of_anyone_count_by_their_requests() -> None:
    made = inventory("n1", "n2")
    made.set_pod(pod("other", gpus=3, node_name="n1"))
    assert free(made) == 13
    made.set_pod(pod("other", gpus=3, node_name="n1", phase="Succeeded"))
    assert free(made) == 16


def test_our_pods_hold_their_target_before_they_are_bound_others_do_not() -> None:
    made = inventory("n1")
    made.set_pod(pod("other", gpus=2, target_node="n1", phase="Pending"))
    assert free(made) == 8
    made.set_pod(ours("mine", 4, target_node="n1", phase="Pending"))
    assert free(made) == 4


def test_a_terminating_pod_holds_until_it_is_gone() -> None:
    made = inventory("n1")
    leaving = ours("mine", 4, node_name="n1", deleting_s=5)
    made.set_pod(leaving)
    assert free(made) == 4
    made.remove_pod(leaving)
    assert free(made) == 8


def test_a_late_deletion_of_a_predecessor_changes_nothing() -> None:
    made = inventory("n1")
    made.set_pod(ours("mine", 4, node_name="n1", uid="new"))
    made.remove_pod(ours("mine", 4, node_name="n1", uid="old"))
    assert free(made) == 4


@pytest.mark.parametrize("owner", [None, "uid-of-nobody"])
def test_a_pod_that_only_looks_like_ours_holds_nothing_before_it_is_bound(owner: str | None) -> None:
    made = inventory("n1")
    forged = pod("forged", deployment="d", owner_uid=owner, units=1_000_000_000, gpus=8, target_node="n1")
    made.set_pod(forged)
    assert (free(made), made.replicas_in("a")) == (8, 0)
    made.set_pod(msgspec.structs.replace(forged, requests=(("nvidia.com/gpu", 1),), node_name="n1"))
    assert (free(made), made.replicas_in("a")) == (7, 0), "bound, it holds what it requests, whatever it says of itself"


def test_the_deployment_of_another_namespace_owns_nothing_here() -> None:
    made = inventory("n1")
    made.set_owner("elsewhere", "uid-of-e")
    made.set_pod(pod("forged", deployment="e", owner_uid="uid-of-e", gpus=8, target_node="n1"))
    assert (free(made), made.replicas_in("a")) == (8, 0)


def test_what_a_pod_of_ours_says_it_holds_counts_for_nothing_beside_what_it_requests() -> None:
    made = inventory("n1")
    made.set_pod(msgspec.structs.replace(ours("mine", 2, target_node="n1"), units=1_000_000_000))
    assert free(made) == 6


def test_pods_seen_before_their_deployment_hold_once_it_is_seen() -> None:
    made = inventory("n1")
    early = pod("early", deployment="late", owner_uid="uid-of-late", gpus=4, target_node="n1")
    made.set_pod(early)
    assert (free(made), made.replicas_in("a")) == (8, 0)
    made.set_owner("ns", "uid-of-late")
    assert (free(made), made.replicas_in("a")) == (4, 1)


def test_pods_of_a_deployment_that_went_are_ours_until_they_are_gone_and_no_later() -> None:
    made = inventory("n1")
    draining = ours("draining", 4, node_name="n1")
    made.set_pod(draining)
    made.remove_owner("ns", OWNER)
    made.set_pod(msgspec.structs.replace(draining, deleting_s=5))
    assert made.replicas_in("a") == 1
    made.remove_pod(draining)
    made.set_pod(ours("forged", 8, target_node="n1"))
    assert (free(made), made.replicas_in("a")) == (8, 0)


def test_a_reservation_holds_until_its_pod_is_seen() -> None:
    made = inventory("n1")
    made.reserve("ns/mine", "n1", 4, expires_at_s=10)
    assert free(made) == 4
    made.set_pod(ours("mine", 4, target_node="n1", phase="Pending"))
    assert free(made) == 4
    assert made.expire(11) == []


def test_a_pod_that_came_as_promised_makes_no_room() -> None:
    made = inventory("n1", "n2")
    before = made.revision
    for name, units, where in (("as-promised", 4, "n1"), ("smaller", 2, "n1"), ("elsewhere", 4, "n2")):
        made.reserve(f"ns/{name}", "n1", 4, expires_at_s=10)
        made.set_pod(ours(name, units, target_node=where, phase="Pending"))
        assert (made.revision > before) == (name != "as-promised")
        assert free(made) == 16 - units
        made.remove_pod(ours(name, units))
        assert free(made) == 16
        before = made.revision


def test_a_reservation_is_released_or_expires() -> None:
    made = inventory("n1")
    made.reserve("ns/one", "n1", 4, expires_at_s=10)
    made.reserve("ns/two", "n1", 2, expires_at_s=20)
    made.release("ns/one")
    assert free(made) == 6
    assert made.expire(19.9) == []
    assert made.expire(20) == ["ns/two"]
    assert free(made) == 8


def test_a_reservation_outlives_news_of_the_pod_that_is_leaving() -> None:
    made = inventory("n1", "n2")
    made.set_pod(ours("mine", 8, node_name="n1", uid="old"))
    made.reserve("ns/mine", "n2", 8, expires_at_s=10)
    made.set_pod(ours("mine", 8, node_name="n1", uid="old", deleting_s=1))
    assert free(made) == 0
    made.set_pod(ours("mine", 8, node_name="n2", uid="new"))
    assert free(made) == 8


def test_a_lost_race_moves_what_a_pod_holds() -> None:
    made = inventory("n1", "n2")
    made.set_pod(ours("mine", 8, target_node="n1", phase="Pending"))
    made.set_pod(ours("mine", 8, target_node="n1", node_name="n2"))
    assert made.fleet.place(GangRequest("h100-sxm-80gb", units_per_pod=8)) == made.fleet.place(
        GangRequest("h100-sxm-80gb", units_per_pod=8, avoid_nodes=frozenset({"n2"}))
    )


def test_a_cpu_pool_counts_millicores_and_daemons_leave_its_nodes_empty() -> None:
    made = Inventory(CATALOG)
    made.set_owner("ns", OWNER)
    made.set_pool("a", spec(accelerator="cpu-x86", spareNodes=1))
    made.set_node(node("n1", kind=None))
    made.set_node(node("n2", kind=None))
    for name in ("n1", "n2"):
        made.set_pod(pod(f"daemon-{name}", cpu=500, node_name=name))
    assert made.fleet.totals("a").spare_nodes == 1
    assert free(made) == 63_500
    made.set_pod(pod("mine", deployment="d", owner_uid=OWNER, cpu=4100, node_name="n1"))
    assert free(made) == 63_500 - 4100


def test_a_pool_that_changes_its_accelerator_counts_its_pods_anew() -> None:
    made = inventory("n1")
    made.set_pod(pod("other", gpus=2, cpu=4000, node_name="n1"))
    made.set_pod(ours("mine", 4, cpu=500, node_name="n1"))
    assert free(made) == 2
    made.set_pool("a", h100(accelerator="cpu-x86"))
    assert free(made) == 64_000 - 4500
    made.set_pool("a", h100())
    assert free(made) == 2


def test_one_of_two_replicas_leaves_a_node() -> None:
    made = inventory("n1", pool=h100(spareNodes=1))
    first, second = ours("one", 2, node_name="n1"), ours("two", 2, node_name="n1")
    made.set_pod(first)
    made.set_pod(second)
    assert (made.replicas_in("a"), made.fleet.totals("a").spare_nodes) == (2, 0)
    made.remove_pod(first)
    assert made.replicas_in("a") == 1
    made.remove_pod(second)
    assert (made.replicas_in("a"), made.fleet.totals("a").spare_nodes) == (0, 1)


def test_a_node_selected_twice_counts_in_the_first_pool_and_moves_when_that_goes() -> None:
    made = inventory("n1", pool=h100())
    made.set_pool("b", h100())
    assert made.overlaps("b") == {"n1": "a"}
    assert (made.fleet.totals("a").nodes, made.fleet.totals("b").nodes) == (1, 0)
    made.set_pod(ours("mine", 4, node_name="n1"))
    made.remove_pool("a")
    assert made.overlaps("b") == {}
    assert (made.fleet.totals("b").nodes, free(made, "b")) == (1, 4)
    made.set_pool("a", h100())
    assert (free(made, "a"), made.overlaps("b")) == (4, {"n1": "a"})


def test_a_new_pool_asks_other_pools_only_about_nodes_it_selects(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Inventory(CATALOG)
    for number in range(40):
        made.set_node(node(f"n{number}", labels={"group": f"g{number % 20}"}))
    asked = 0

    def counted(*arguments: Any) -> bool:
        nonlocal asked
        asked += 1
        return matches(*arguments)

    monkeypatch.setattr("operators.pools.inventory.matches", counted)
    for number in range(20):
        made.set_pool(f"p{number}", spec(nodeSelector={"matchLabels": {"group": f"g{number}"}}))
    assert all(free(made, f"p{number}") == 16 for number in range(20))
    assert asked <= 20 * 40 + 20 * 2 * 20  # each node once per new pool, and its two nodes by all pools there are


def test_labels_and_selectors_move_nodes() -> None:
    made = inventory("n1", "n2")
    made.set_node(node("n2", kind="l4", version=2))
    assert made.fleet.totals("a").nodes == 1
    made.set_pool("a", spec(nodeSelector={"matchLabels": {"kind": "l4"}}))
    assert [facts.name for facts in made.facts("a")] == ["n2"]
    made.remove_node("n2")
    assert made.fleet.totals("a").nodes == 0


def test_a_node_that_comes_back_finds_its_pods_again() -> None:
    made = inventory("n1")
    made.set_pod(ours("mine", 4, node_name="n1"))
    made.remove_node("n1")
    assert free(made) == 0
    made.set_node(node("n1"))
    assert free(made) == 4


def test_a_pool_whose_nodes_disagree_or_are_unknown_places_nothing() -> None:
    made = Inventory(CATALOG)
    made.set_pool("a", spec())
    made.set_node(node("n1"))
    assert isinstance(made.fleet.place(GangRequest("h100-sxm-80gb")), Placement)
    made.set_node(node("n2", kind="l4"))
    assert made.fleet.supply("a").blocked == ("AcceleratorsDiffer", "nodes carry h100-sxm-80gb (1), l4 (1)")  # type: ignore[union-attr]
    answer = made.fleet.place(GangRequest("h100-sxm-80gb", pools=("a",)))
    assert isinstance(answer, Refusal) and answer.reason is Reason.POOL_NOT_READY
    made.set_pool("a", spec(accelerator="h100-sxm-80gb"))
    assert isinstance(made.fleet.place(GangRequest("h100-sxm-80gb")), Placement)
    made.set_pool("a", spec(accelerator="h1000"))
    assert made.fleet.supply("a").blocked[0] == "AcceleratorUnknown"  # type: ignore[index,union-attr]


def test_heartbeats_say_nothing_and_room_is_counted() -> None:
    made = inventory("n1")
    heard: list[str] = []
    made.subscribe(heard.append)
    made.set_node(node("n1", version=2))
    assert heard == []
    before = made.revision
    mine = ours("mine", 4, node_name="n1")
    made.set_pod(mine)
    assert (heard, made.revision) == (["a"], before)
    made.remove_pod(mine)
    assert made.revision > before


class Events(RuleBasedStateMachine):
    """Any order of events leaves the sums that counting afresh gives."""

    names = st.sampled_from(["p0", "p1", "p2", "p3"])
    nodes = st.sampled_from(["n0", "n1", "n2"])

    @initialize()
    def start(self) -> None:
        self.made = Inventory(CATALOG)
        self.owned = False
        self.pods: dict[str, PodView] = {}
        self.reserved: dict[str, tuple[str, int]] = {}
        self.present: dict[str, NodeView] = {}
        self.made.set_pool("a", h100())
        for name in ("n0", "n1"):
            self.set_node(name, "h100", ready=True)

    @rule(name=names, where=nodes, units=st.integers(0, 8), state=st.sampled_from(["new", "bound", "done", "leaving"]))
    def set_pod(self, name: str, where: str, units: int, state: str) -> None:
        self.pods[name] = ours(
            name,
            units,
            target_node=where,
            node_name=None if state == "new" else where,
            phase="Failed" if state == "done" else "Running",
            deleting_s=1 if state == "leaving" else None,
        )
        self.made.set_pod(self.pods[name])
        self.reserved.pop(name, None)

    @rule()
    def set_owner(self) -> None:
        self.made.set_owner("ns", OWNER)
        self.owned = True

    @precondition(lambda self: not self.pods)
    @rule()
    def remove_owner(self) -> None:
        self.made.remove_owner("ns", OWNER)
        self.owned = False

    @rule(name=names)
    def remove_pod(self, name: str) -> None:
        gone = self.pods.pop(name, None)
        if gone is not None:
            self.made.remove_pod(gone)

    @rule(name=names, where=nodes, units=st.integers(1, 8))
    def reserve(self, name: str, where: str, units: int) -> None:
        if name not in self.pods:
            self.made.reserve(f"ns/{name}", where, units, expires_at_s=1)
            self.reserved[name] = (where, units)

    @rule(name=names)
    def release(self, name: str) -> None:
        self.made.release(f"ns/{name}")
        self.reserved.pop(name, None)

    @rule()
    def expire(self) -> None:
        self.made.expire(2)
        self.reserved.clear()

    @rule(name=nodes, kind=st.sampled_from(["h100", "h100", "l4"]), ready=st.booleans())
    def set_node(self, name: str, kind: str, ready: bool) -> None:
        self.present[name] = node(name, kind=kind, ready=ready)
        self.made.set_node(self.present[name])

    @rule(name=nodes)
    def remove_node(self, name: str) -> None:
        self.present.pop(name, None)
        self.made.remove_node(name)

    @rule(labels=st.sampled_from(["h100", "l4"]))
    def set_pool(self, labels: str) -> None:
        self.made.set_pool("b", spec(nodeSelector={"matchLabels": {"kind": labels}}, accelerator="h100-sxm-80gb"))

    @rule()
    def remove_pool(self) -> None:
        self.made.remove_pool("b")

    @invariant()
    def sums_are_those_of_counting_afresh(self) -> None:
        fresh = Inventory(CATALOG)
        if self.owned:
            fresh.set_owner("ns", OWNER)
        for name, item in self.made._pools.items():
            fresh.set_pool(name, item.spec)
        for node_view in self.present.values():
            fresh.set_node(node_view)
        for item in self.pods.values():
            fresh.set_pod(item)
        for name, (where, units) in self.reserved.items():
            fresh.reserve(f"ns/{name}", where, units, expires_at_s=1)
        for name in ("a", "b"):
            assert self.made.fleet.totals(name) == fresh.fleet.totals(name)
            assert self.made.fleet.supply(name) == fresh.fleet.supply(name)
            assert self.made.replicas_in(name) == fresh.replicas_in(name)
            assert self.made.overlaps(name) == fresh.overlaps(name)
        answer = self.made.fleet.place(GangRequest("h100-sxm-80gb", units_per_pod=4))
        assert answer == fresh.fleet.place(GangRequest("h100-sxm-80gb", units_per_pod=4))


TestEvents = Events.TestCase
TestEvents.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 8)), max_size=20))
@settings(max_examples=50, deadline=None)
def test_placing_and_reserving_never_promises_more_than_there_is(gangs: list[tuple[int, int]]) -> None:
    made = inventory("n1", "n2", "n3")
    for number, (pods, units) in enumerate(gangs):
        answer = made.fleet.place(GangRequest("h100-sxm-80gb", pods=pods + 1, units_per_pod=units))
        if isinstance(answer, Placement):
            for rank, name in enumerate(answer.nodes):
                made.reserve(f"ns/{number}-{rank}", name, units, expires_at_s=1)
    totals = made.fleet.totals("a")
    assert 0 <= totals.used <= totals.capacity == 24
    assert totals.free == totals.capacity - totals.used
