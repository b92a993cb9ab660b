"""Among places that are allowed: few nodes, few domains, tight fits, stable ties."""

from __future__ import annotations

from typing import Any

from controlplane.model.cluster import NodeFacts
from operators.placement import Fleet, GangRequest, Placement, PoolSupply, TopologyNeed


def fleet(layout: dict[str, tuple[int, int]], spare_nodes: int = 0, **domains: dict[str, str]) -> Fleet:
    """`layout`: node -> (capacity, used); `domains`: level -> node -> domain."""
    made = Fleet()
    made.set_pool(PoolSupply("a", "h100", spare_nodes=spare_nodes))
    for name, (capacity, used) in layout.items():
        where = {level: names[name] for level, names in domains.items() if name in names}
        made.set_node("a", NodeFacts(name, "h100", "nvidia.com/gpu", capacity, "ib", 8, where))
        made.set_used(name, used)
    return made


def placed(made: Fleet, **request: Any) -> Placement:
    answer = made.place(GangRequest("h100", **request))
    assert isinstance(answer, Placement), answer
    return answer


def test_one_pod_takes_the_tightest_node_and_ties_go_by_name() -> None:
    made = fleet({"d": (8, 0), "c": (8, 4), "b": (8, 3), "a": (8, 0)})
    assert placed(made, units_per_pod=4).nodes == ("c",)
    assert placed(made, units_per_pod=5).nodes == ("b",)
    assert placed(made, units_per_pod=6).nodes == ("a",)


def test_a_node_in_use_comes_before_an_empty_one_of_the_same_size() -> None:
    made = fleet({"a": (4, 0), "b": (8, 4)})
    answer = placed(made, units_per_pod=4)
    assert (answer.nodes, answer.opened_nodes, answer.leftover_units) == (("b",), 0, 0)


def test_a_whole_node_comes_from_the_rack_that_is_already_broken_into() -> None:
    racks = {"a1": "ra", "a2": "ra", "b1": "rb", "b2": "rb"}
    made = fleet({"a1": (8, 0), "a2": (8, 0), "b1": (8, 8), "b2": (8, 0)}, rack=racks)
    assert placed(made, units_per_pod=8).nodes == ("b2",)


def test_a_gang_stays_on_one_node_when_one_can_take_it() -> None:
    made = fleet({"a": (8, 7), "b": (8, 0), "c": (8, 2)})
    assert placed(made, pods=3, units_per_pod=2).nodes == ("c", "c", "c")


def test_a_gang_of_several_nodes_takes_few_and_the_last_one_tightly() -> None:
    made = fleet({"a": (8, 6), "b": (8, 0), "c": (8, 4), "d": (8, 0)})
    assert placed(made, pods=10, units_per_pod=1).units_by_node == {"a": 2, "b": 8}


def test_the_smallest_rack_that_suffices() -> None:
    layout = {f"{rack}{i}": (8, 0) for rack, size in (("x", 4), ("y", 2), ("z", 3)) for i in range(size)}
    racks = {name: name[0] for name in layout}
    answer = placed(fleet(layout, rack=racks), pods=2, units_per_pod=8)
    assert (answer.domain, answer.nodes) == ("y", ("y0", "y1"))
    answer = placed(fleet(layout, rack=racks), pods=3, units_per_pod=8, topology=TopologyNeed("rack"))
    assert (answer.domain, answer.topology_met) == ("z", True)


def test_a_preference_that_cannot_be_met_spans_as_few_racks_as_possible() -> None:
    layout = {f"{rack}{i}": (8, 0) for rack, size in (("w", 1), ("x", 4), ("y", 2), ("z", 1)) for i in range(size)}
    made = fleet(layout, rack={name: name[0] for name in layout})
    answer = placed(made, pods=6, units_per_pod=8, topology=TopologyNeed("rack", "preferred"))
    assert {name[0] for name in answer.nodes} == {"x", "y"}
    assert (answer.topology_met, answer.domain) == (False, None)


def test_inside_a_block_a_gang_takes_whole_racks_first() -> None:
    layout = {f"{rack}{i}": (8, 0) for rack, size in (("p", 3), ("q", 4), ("r", 3)) for i in range(size)}
    made = fleet(layout, rack={name: name[0] for name in layout}, block=dict.fromkeys(layout, "b"))
    answer = placed(made, pods=7, units_per_pod=8, topology=TopologyNeed("block"))
    assert sorted({name[0] for name in answer.nodes}) == ["p", "q"]


def test_consecutive_ranks_are_neighbours() -> None:
    layout = dict.fromkeys(("n1", "n2", "n3", "n4"), (8, 0))
    made = fleet(layout, rack={"n1": "r1", "n3": "r1", "n2": "r2", "n4": "r2"})
    assert placed(made, pods=4, units_per_pod=8).nodes == ("n1", "n3", "n2", "n4")


def test_nodes_that_do_not_say_their_rack_are_no_rack() -> None:
    made = fleet({"a": (8, 0), "b": (8, 0), "c": (8, 0), "d": (8, 0)}, rack={"c": "r", "d": "r"})
    assert placed(made, pods=2, units_per_pod=8, topology=TopologyNeed("rack")).nodes == ("c", "d")


def test_the_unknown_is_no_domain_even_where_it_would_fit_tightest() -> None:
    made = fleet({"a": (8, 4), "b": (8, 4), "c": (8, 0), "d": (8, 0)}, rack={"c": "r", "d": "r"})
    assert placed(made, pods=4, units_per_pod=2, topology=TopologyNeed("rack")).nodes == ("c",) * 4
    assert placed(made, pods=2, units_per_pod=4, topology=TopologyNeed("rack")).domain == "r"
    wide = fleet({"a": (4, 0), "b": (4, 0), "c": (4, 0), "d": (5, 0)}, rack={"c": "r", "d": "r"})
    assert placed(wide, pods=2, units_per_pod=4, topology=TopologyNeed("rack")).nodes == ("c", "d")


def test_the_last_node_of_a_gang_has_room_for_what_is_left() -> None:
    made = fleet({"a": (8, 7), "b": (8, 0), "c": (8, 6), "d": (8, 5)})
    assert placed(made, pods=10, units_per_pod=1).units_by_node == {"b": 8, "c": 2}


def test_a_pinned_domain_and_the_host_level() -> None:
    racks = {"a": "r1", "b": "r2", "c": "r2"}
    made = fleet({"a": (8, 4), "b": (8, 0), "c": (8, 0)}, rack=racks)
    assert placed(made, units_per_pod=4, topology=TopologyNeed("rack", domain="r2")).nodes == ("b",)
    assert placed(made, pods=2, units_per_pod=4, topology=TopologyNeed("host")).nodes == ("b", "b")
    assert made.domain_of("b", "rack") == "r2" and made.domain_of("b", "host") == "b"
    assert made.domain_of("b", "zone") is None and made.domain_of("gone", "rack") is None


def test_spread_prefers_nodes_without_peers_and_pack_ignores_them() -> None:
    made = fleet({"a": (8, 4), "b": (8, 0), "c": (8, 0)})
    peers = {"a": 1, "b": 1}
    assert placed(made, units_per_pod=4, peer_nodes=peers, spread="Spread").nodes == ("c",)
    assert placed(made, units_per_pod=4, peer_nodes=peers, spread="Pack").nodes == ("a",)
    all_peers = {"a": 2, "b": 1, "c": 3}
    assert placed(made, units_per_pod=4, peer_nodes=all_peers, spread="Spread").nodes == ("b",)


def test_spread_looks_for_a_rack_without_peers() -> None:
    layout = dict.fromkeys(("a1", "a2", "b1", "b2", "b3"), (8, 0))
    made = fleet(layout, rack={name: name[0] for name in layout})
    need = TopologyNeed("rack")
    answer = placed(made, pods=2, units_per_pod=8, peer_nodes={"a1": 1}, spread="Spread", topology=need)
    assert answer.domain == "b"


def test_spares_stay_empty_wherever_they_are() -> None:
    layout = {"a": (8, 0), "b": (8, 0), "c": (8, 0)}
    made = fleet(layout, spare_nodes=1, rack={"a": "r1", "b": "r2", "c": "r2"})
    assert placed(made, pods=2, units_per_pod=8, topology=TopologyNeed("rack")).nodes == ("b", "c")
    totals = made.totals("a")
    assert (totals.spare_nodes, totals.free, totals.largest_block, totals.usable_nodes) == (1, 16, 8, 3)


def test_the_order_of_pools_is_the_users() -> None:
    made = fleet({"n": (8, 0)})
    made.set_pool(PoolSupply("z", "h100"))
    made.set_node("z", NodeFacts("m", "h100", "nvidia.com/gpu", 8, None, None, {}))
    assert placed(made).pool == "a"
    assert placed(made, pools=("z", "a")).pool == "z"


def test_a_node_moves_between_pools_and_goes() -> None:
    made = fleet({"n": (8, 2), "m": (8, 0)})
    made.set_pool(PoolSupply("b", "h100"))
    made.set_node("b", NodeFacts("n", "h100", "nvidia.com/gpu", 8, None, None, {}))
    assert (made.pool_of("n"), made.totals("a").nodes, made.totals("b").nodes) == ("b", 1, 1)
    made.remove_node("n")
    made.remove_pool("a")
    assert (made.totals("b").nodes, made.pool_of("m"), made.pool_names()) == (0, None, ["b"])
    made.set_used("m", 4)
    made.remove_node("m")


def test_an_empty_pool_refuses() -> None:
    made = Fleet()
    made.set_pool(PoolSupply("a", "h100"))
    assert not isinstance(made.place(GangRequest("h100")), Placement)
