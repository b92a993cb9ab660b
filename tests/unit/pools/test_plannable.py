"""What a planner is told of a pool: usable ones, free room without spares, what all nodes agree on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from controlplane.model.cluster import GPUPoolSpec
from controlplane.model.plans import PlannablePool
from operators.pools.inventory import Inventory
from operators.pools.plannable import Pods, plannable, pools_revision, room_revision
from tests.unit.pools.test_inventory import CATALOG, node, pod


def inventory(spec: dict[str, Any], *nodes: Any) -> Inventory:
    made = Inventory(CATALOG)
    made.set_pool("p", GPUPoolSpec.model_validate(spec))
    for item in nodes:
        made.set_node(item)
    return made


def test_free_room_is_counted_without_what_is_taken_or_kept_as_spares() -> None:
    made = inventory(
        {
            "spareNodes": 1,
            "price": {"amountPerAcceleratorHour": 3.9},
            "nic": {"class": "ib-ndr-400", "countPerNode": 8},
        },
        *(node(f"n{number}") for number in range(3)),
        node("small", gpus=4),
    )
    made.set_pod(pod("somebody", gpus=3, node_name="n0"))
    (room,) = plannable(made)
    pool = room.with_held()
    assert (pool.accelerator, pool.per_node, pool.nic, pool.nics_per_node) == ("h100-sxm-80gb", 8, "ib-ndr-400", 8)
    assert (pool.price_per_accelerator_hour, pool.currency) == (3.9, "USD")
    assert pool.free == made.fleet.totals("p").free
    assert pool.free <= 28 - 3 - 4  # all, less what is taken and the smallest node that can be the spare
    assert room.with_held([Pods(3)]).free == pool.free + 3


def test_room_is_also_told_node_by_node() -> None:
    made = inventory({}, node("n0"), node("n1"))
    made.set_pod(pod("somebody", gpus=1, node_name="n0"))
    made.set_pod(pod("another", gpus=3, node_name="n1"))
    (room,) = plannable(made)
    assert told(room.with_held()) == (12, [(7, 1), (5, 1)])
    assert told(room.with_held([Pods(3, 1, "n1")])) == (15, [(8, 1), (7, 1)])  # its own pod's node, whole again
    assert pools_revision([room.with_held()], []) == pools_revision([room.with_held([Pods(3, 1, "n1")])], [])
    assert room_revision([room.with_held()]) != room_revision([replace(room, free_nodes=((6, 2),)).with_held()])


def test_what_others_will_take_is_left_out_where_it_fits() -> None:
    (room,) = plannable(inventory({}, node("n0"), node("n1"), node("n2")))
    assert told(room.with_held(claims=[Pods(4, 3)])) == (12, [(8, 1), (4, 1)])
    assert told(room.with_held(claims=[Pods(8, 5)])) == (0, [])
    assert told(room.with_held(claims=[Pods(16, 1)])) == (24, [(8, 3)])  # fits nowhere: nobody keeps clear of it
    assert told(room.with_held([Pods(2, 1)], [Pods(2, 1)])) == (24, [(8, 3)])


def told(pool: PlannablePool) -> tuple[int, list[tuple[int, int]]]:
    return pool.free, [(item.free, item.nodes) for item in pool.free_nodes or []]


def test_a_cpu_pool_counts_whole_cores() -> None:
    made = inventory({"accelerator": "cpu-x86"}, node("c0", None), node("c1", None))
    made.set_pod(pod("somebody", cpu=1500, node_name="c0"))
    (room,) = plannable(made)
    assert (room.with_held().free, room.with_held([Pods(500)]).free, room.facts.per_node) == (126, 127, 64)


def test_a_pool_that_takes_nothing_new_is_closed_and_has_no_room_but_what_is_held() -> None:
    (room,) = plannable(inventory({"suspend": True}, node("n0")))
    assert (room.closed, room.with_held().free, room.with_held([Pods(3)]).free) == (True, 0, 3)
    (empty,) = plannable(inventory({"accelerator": "h100-sxm-80gb"}))
    assert empty.closed
    assert not plannable(inventory({}, node("n0")))[0].closed


def test_a_pool_without_one_known_accelerator_is_left_out() -> None:
    assert plannable(inventory({})) == ()
    assert plannable(inventory({}, node("n0"), node("n1", "l4"))) == ()  # its nodes disagree on the accelerator


def test_free_room_and_facts_have_hashes_of_their_own() -> None:
    made = inventory({}, node("n0"))
    before = [room.with_held() for room in plannable(made)]
    made.set_pod(pod("somebody", gpus=3, node_name="n0"))
    after = [room.with_held() for room in plannable(made)]
    assert pools_revision(before, ["vllm"]) == pools_revision(after, ["vllm"])
    assert pools_revision(before, ["vllm"]) != pools_revision(before, ["sglang", "vllm"])
    assert room_revision(before) != room_revision(after)
