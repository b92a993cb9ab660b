"""Every reason for a refusal, its words and numbers, and which one dominates."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.model.cluster import NodeFacts, PoolToleration, Taint
from controlplane.model.errors import InvalidSpec
from operators.placement import Fleet, GangRequest, Placement, PoolSupply, PoolVerdict, Reason, Refusal, TopologyNeed


def node(name: str, **more: Any) -> NodeFacts:
    defaults: dict[str, Any] = {
        "accelerator": "h100",
        "resource": "nvidia.com/gpu",
        "capacity": 8,
        "nic_class": "ib",
        "nic_count": 8,
        "domains": {"rack": "r1", "block": "b1"},
    }
    return NodeFacts(name=name, **defaults | more)


def fleet(*nodes: NodeFacts, pool: PoolSupply | None = None, **used: int) -> Fleet:
    made = Fleet()
    supply = pool or PoolSupply("a", "h100")
    made.set_pool(supply)
    for item in nodes:
        made.set_node(supply.name, item)
        made.set_used(item.name, used.get(item.name, 0))
    return made


def refused(made: Fleet, **request: Any) -> PoolVerdict:
    answer = made.place(GangRequest("h100", **request))
    assert isinstance(answer, Refusal), answer
    return answer.dominant


def test_a_pool_that_does_not_exist() -> None:
    verdict = refused(fleet(node("n1")), pools=("b",))
    assert verdict.reason is Reason.MISCONFIGURED
    assert verdict.message == "GPUPool b does not exist; there are: a"


def test_no_pool_has_the_accelerator() -> None:
    made = fleet(node("n1"))
    answer = made.place(GangRequest("l4"))
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.dominant.pool) == (Reason.NO_MATCHING_FLAVOR, None)
    assert "no GPUPool offers accelerator l4; offered: h100" in answer.message
    named = made.place(GangRequest("l4", pools=("a",)))
    assert isinstance(named, Refusal)
    assert named.dominant.message == "pool has h100, the choice asks for l4"


def test_suspended_and_unready_pools() -> None:
    assert refused(fleet(node("n1"), pool=PoolSupply("a", "h100", suspended=True))).reason is Reason.SUSPENDED
    unready = PoolSupply("a", None, blocked=("AcceleratorsDiffer", "nodes carry l4 (1), t4 (1)"))
    verdict = refused(fleet(pool=unready), pools=("a",))
    assert verdict.reason is Reason.POOL_NOT_READY
    assert verdict.message == "AcceleratorsDiffer: nodes carry l4 (1), t4 (1)"


def test_larger_than_a_node_and_larger_than_the_pool() -> None:
    verdict = refused(fleet(node("n1"), node("n2")), units_per_pod=16)
    assert (verdict.reason, verdict.largest_block) == (Reason.EXCEEDS_NODE_SIZE, 8)
    assert verdict.message == "each pod needs 16 on one node, the largest node has 8"
    verdict = refused(fleet(node("n1"), node("n2")), pods=3, units_per_pod=8)
    assert (verdict.reason, verdict.needed, verdict.free) == (Reason.EXCEEDS_MAX_QUOTA, 24, 16)


@pytest.mark.parametrize(
    ("flaw", "cause", "fix"),
    [
        ({"ready": False}, "1 not ready", "Ready"),
        ({"quarantined": True, "cordoned": True}, "1 quarantined", "quarantine"),
        ({"unhealthy": "GpuUnhealthy"}, "1 unhealthy", "repair"),
        ({"cordoned": True}, "1 cordoned", "uncordon"),
        ({"taints": (Taint("team", "x", "NoSchedule"),)}, "1 tainted", "remove taint team=x:NoSchedule"),
        ({"capacity": 0}, "1 no devices", "device plugin"),
    ],
)
def test_unusable_nodes_are_counted_by_cause(flaw: dict[str, Any], cause: str, fix: str) -> None:
    made = fleet(node("n1", **flaw), node("n2"), node("n3"))
    if not flaw.get("capacity", 1):
        made = fleet(node("n1", **flaw), pool=PoolSupply("a", "h100"))
        assert refused(made).reason is Reason.EXCEEDS_NODE_SIZE
        return
    verdict = refused(made, pods=3, units_per_pod=8)
    assert verdict.reason is Reason.NODES_UNAVAILABLE
    assert cause in verdict.message and "takes 2 of 3 pods" in verdict.message
    assert fix in verdict.fix
    assert verdict.fits == 2


def test_tolerations_of_the_pool_and_of_the_request_open_tainted_nodes_but_not_a_quarantine() -> None:
    tainted = node("n1", taints=(Taint("team", "x", "NoSchedule"), Taint("soft", "", "PreferNoSchedule")))
    tolerated = PoolSupply("a", "h100", tolerations=(PoolToleration(key="team", value="x"),))
    assert isinstance(fleet(tainted, pool=tolerated).place(GangRequest("h100")), Placement)
    wrong = PoolSupply("a", "h100", tolerations=(PoolToleration(key="team", value="y"),))
    assert refused(fleet(tainted, pool=wrong)).reason is Reason.NODES_UNAVAILABLE
    nothing = PoolSupply("a", "h100", tolerations=(PoolToleration(key="team", value=""),))
    assert refused(fleet(tainted, pool=nothing)).reason is Reason.NODES_UNAVAILABLE
    asked = GangRequest("h100", tolerations=(PoolToleration(key="team", effect="NoSchedule"),))
    assert isinstance(fleet(tainted).place(asked), Placement)
    assert isinstance(fleet(tainted, n1=8).place(asked), Refusal)
    quarantined = node("n1", quarantined=True)
    everything = (PoolToleration(key="trimtab.dev/quarantine"),)
    assert refused(fleet(quarantined), tolerations=everything).reason is Reason.NODES_UNAVAILABLE


def test_nic_class_and_rails() -> None:
    made = fleet(node("n1", nic_count=4), node("n2", nic_class="roce"), node("n3", nic_class=None, nic_count=None))
    verdict = refused(made, nic_class="ib", nic_min_per_node=8)
    assert verdict.reason is Reason.NIC_UNAVAILABLE
    assert "0 of 3 usable nodes have NIC class ib with at least 8 on each" in verdict.message
    assert "unknown on 1 node" in verdict.fix
    answer = made.place(GangRequest("h100", nic_min_per_node=5))
    assert isinstance(answer, Placement) and answer.nodes == ("n2",)


def test_avoided_nodes() -> None:
    verdict = refused(fleet(node("n1"), node("n2")), pods=2, units_per_pod=8, avoid_nodes=frozenset({"n2", "gone"}))
    assert verdict.reason is Reason.NODES_AVOIDED
    assert verdict.message.startswith("1 suitable node is avoided")


def test_not_enough_free_says_what_to_free_and_where() -> None:
    verdict = refused(fleet(node("n1"), node("n2"), n1=4, n2=6), units_per_pod=8)
    assert verdict.reason is Reason.WAITING_FOR_QUOTA
    assert verdict.message == "needs 8 free on one node; 6 free in all, largest block 4"
    assert verdict.fix == "free 4 more on node n1"
    assert (verdict.needed, verdict.free, verdict.largest_block, verdict.fits) == (8, 6, 4, 0)


def test_enough_in_pieces_too_small() -> None:
    verdict = refused(fleet(node("n1"), node("n2"), n1=4, n2=4), units_per_pod=8)
    assert verdict.reason is Reason.FRAGMENTED
    assert verdict.message == "needs 8 free on one node; 8 free in pieces, largest block 4"
    made = fleet(*(node(f"n{i}") for i in range(4)), n0=3, n1=3, n2=3, n3=1)
    verdict = refused(made, pods=3, units_per_pod=6)
    assert (verdict.reason, verdict.free, verdict.fits) == (Reason.FRAGMENTED, 22, 1)
    assert verdict.fix == "free 2 more on 2 nodes"


def test_spares_are_kept() -> None:
    spare = PoolSupply("a", "h100", spare_nodes=1)
    made = fleet(node("n1"), node("n2"), pool=spare, n1=4)
    verdict = refused(made, units_per_pod=8)
    assert verdict.reason is Reason.SPARES_RESERVED
    assert "1 empty node is kept as spare" in verdict.message
    answer = made.place(GangRequest("h100", units_per_pod=4))
    assert isinstance(answer, Placement) and answer.nodes == ("n1",)


def test_no_single_domain_takes_the_gang() -> None:
    nodes = [node(f"n{i}", domains={"rack": f"r{i % 2}"}) for i in range(6)]
    verdict = refused(fleet(*nodes), pods=4, units_per_pod=8, topology=TopologyNeed("rack"))
    assert verdict.reason is Reason.TOPOLOGY_PLACEMENT_FAILED
    assert verdict.message == "4 pods of 8 do not fit in one rack: r0 takes 3"
    assert (verdict.largest_block, verdict.fits) == (24, 3)
    assert "free 8 more in rack r0, use mode preferred, or a broader level" in verdict.fix
    pinned = refused(fleet(*nodes, n1=8), pods=3, units_per_pod=8, topology=TopologyNeed("rack", domain="r1"))
    assert pinned.message == "3 pods of 8 do not fit in one rack: r1 takes 2"


def test_a_level_that_no_node_names() -> None:
    verdict = refused(fleet(node("n1", domains={})), topology=TopologyNeed("rack"))
    assert verdict.reason is Reason.TOPOLOGY_PLACEMENT_FAILED
    assert verdict.message == "no suitable node says its rack"
    assert "spec.topologyKeys.rack" in verdict.fix


def test_the_pool_nearest_to_success_speaks_for_all() -> None:
    made = fleet(node("n1"), pool=PoolSupply("a", "h100", suspended=True))
    for pool, used in (("b", 6), ("c", 4)):
        made.set_pool(PoolSupply(pool, "h100"))
        for index in range(2):
            made.set_node(pool, node(f"{pool}{index}"))
            made.set_used(f"{pool}{index}", used)
    answer = made.place(GangRequest("h100", pods=2, units_per_pod=6))
    assert isinstance(answer, Refusal)
    assert [(verdict.pool, verdict.reason) for verdict in answer.verdicts] == [
        ("a", Reason.SUSPENDED),
        ("b", Reason.WAITING_FOR_QUOTA),
        ("c", Reason.WAITING_FOR_QUOTA),
    ]
    assert answer.message.startswith("pool b: needs 2 times 6 free, 0 fit; 4 free in all, largest block 2; free 8 more")


def test_another_pool_with_room_is_named() -> None:
    made = fleet(node("n1"), n1=8)
    made.set_pool(PoolSupply("other", "l40s"))
    made.set_node("other", node("m1", accelerator="l40s"))
    made.set_pool(PoolSupply("cpus", "cpu-x86"))
    made.set_node("cpus", node("c1", accelerator="cpu-x86", resource="cpu", capacity=64_000))
    answer = made.place(GangRequest("h100", units_per_pod=4))
    assert isinstance(answer, Refusal)
    assert answer.message.endswith("free 4 more on node n1, or allow pool other (l40s, 8 free)")


def test_pools_passed_over_are_kept_with_the_placement() -> None:
    made = fleet(node("n1"), n1=8)
    made.set_pool(PoolSupply("b", "h100"))
    made.set_node("b", node("m1"))
    answer = made.place(GangRequest("h100", pools=("a", "b")))
    assert isinstance(answer, Placement)
    assert (answer.pool, [item.reason for item in answer.passed_over]) == ("b", [Reason.WAITING_FOR_QUOTA])
    first, second = made.explain(GangRequest("h100"))
    assert isinstance(first, PoolVerdict) and isinstance(second, Placement)


@pytest.mark.parametrize("wrong", [{"pods": 0}, {"pods": 10**6}, {"units_per_pod": 0}, {"units_per_pod": 2**50}])
def test_absurd_requests_are_refused_by_name(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidSpec) as error:
        GangRequest("h100", **wrong)  # type: ignore[arg-type]
    assert error.value.field in wrong
