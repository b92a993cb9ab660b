"""Properties of placement on small fleets, against a brute-force reading of the rules."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.model.cluster import NodeFacts, PoolToleration, Taint
from operators.placement import Fleet, GangRequest, Placement, PoolSupply, Reason, Refusal, TopologyNeed
from operators.placement.reasons import ORDER

GPU = "gpu-a"
TAINT = Taint("team", "x", "NoSchedule")
TOLERATION = PoolToleration(key="team")


@dataclass(frozen=True)
class Node:
    facts: NodeFacts
    used: int

    @property
    def free(self) -> int:
        return max(0, self.facts.capacity - self.used)


@dataclass(frozen=True)
class World:
    nodes: tuple[Node, ...]
    spare_nodes: int
    tolerated: bool

    @property
    def supply(self) -> PoolSupply:
        return PoolSupply(
            "pool", GPU, spare_nodes=self.spare_nodes, tolerations=(TOLERATION,) if self.tolerated else ()
        )

    def fleet(self, order: tuple[int, ...] | None = None) -> Fleet:
        fleet = Fleet()
        fleet.set_pool(self.supply)
        for index in order if order is not None else range(len(self.nodes)):
            node = self.nodes[index]
            fleet.set_node("pool", node.facts)
            fleet.set_used(node.facts.name, node.used)
        return fleet

    def usable(self, node: Node) -> bool:
        facts = node.facts
        hard = [taint for taint in facts.taints if taint.effect != "PreferNoSchedule" and not self.tolerated]
        bad = facts.cordoned or facts.quarantined or facts.unhealthy or not facts.ready or hard
        return not bad and facts.capacity > 0

    def eligible(self, node: Node, request: GangRequest) -> bool:
        facts = node.facts
        return (
            self.usable(node)
            and request.nic_class in (None, facts.nic_class)
            and (request.nic_min_per_node is None or (facts.nic_count or -1) >= request.nic_min_per_node)
            and facts.name not in request.avoid_nodes
        )

    def most_pods(self, request: GangRequest, spares: bool = True) -> dict[str | None, int]:
        """Most pods that fit anywhere (key None) and in each domain, over every choice of empty nodes to open."""
        empties = [node for node in self.nodes if self.usable(node) and node.used == 0]
        budget = max(0, len(empties) - self.spare_nodes) if spares else len(empties)
        level = request.topology.level if request.topology else None
        answer: dict[str | None, int] = {None: 0}
        for opened in itertools.combinations([node.facts.name for node in empties], min(budget, len(empties))):
            sums: dict[str | None, int] = {}
            for node in self.nodes:
                if self.eligible(node, request) and (node.used > 0 or node.facts.name in opened):
                    pods = node.free // request.units_per_pod
                    sums[None] = sums.get(None, 0) + pods
                    domain = node.facts.domains.get(level) if level else None
                    if domain is not None:
                        sums[domain] = sums.get(domain, 0) + pods
            for key, value in sums.items():
                answer[key] = max(answer.get(key, 0), value)
        return answer

    def possible(self, request: GangRequest) -> bool:
        most = self.most_pods(request)
        need = request.topology
        if need is None or need.mode == "preferred":
            return most[None] >= request.pods
        if need.domain is not None:
            return most.get(need.domain, 0) >= request.pods
        return any(value >= request.pods for key, value in most.items() if key is not None)


@st.composite
def a_node(draw: st.DrawFn, name: str) -> Node:
    capacity = draw(st.sampled_from([0, 4, 8, 8, 8]))
    domains = {"block": draw(st.sampled_from(["b0", "b1"])), "rack": draw(st.sampled_from(["r0", "r1", "r2"]))}
    if draw(st.integers(0, 5)) == 0:
        del domains["rack"]
    flaw = draw(st.sampled_from([None] * 8 + ["ready", "cordoned", "quarantined", "unhealthy", "taint", "soft"]))
    facts = NodeFacts(
        name=name,
        accelerator=GPU,
        resource="nvidia.com/gpu",
        capacity=capacity,
        nic_class=draw(st.sampled_from(["ib", "ib", "roce", None])),
        nic_count=draw(st.sampled_from([8, 8, 4, None])),
        domains=domains,
        taints={"taint": (TAINT,), "soft": (replace(TAINT, effect="PreferNoSchedule"),)}.get(flaw or "", ()),
        ready=flaw != "ready",
        cordoned=flaw == "cordoned",
        quarantined=flaw == "quarantined",
        unhealthy="xid" if flaw == "unhealthy" else None,
    )
    return Node(facts, min(capacity, draw(st.sampled_from([0, 0, 0, 1, 4, 6, 8]))))


@st.composite
def a_world(draw: st.DrawFn, most: int = 6) -> World:
    size = draw(st.integers(1, most))
    nodes = tuple(draw(a_node(f"n{index}")) for index in range(size))
    return World(nodes, draw(st.sampled_from([0, 0, 0, 1, 2])), draw(st.booleans()))


@st.composite
def a_request(draw: st.DrawFn) -> GangRequest:
    need = draw(
        st.one_of(
            st.none(),
            st.builds(
                TopologyNeed,
                st.sampled_from(["rack", "block"]),
                st.sampled_from(["required", "preferred"]),
                st.sampled_from([None, None, "r1", "b0"]),
            ),
        )
    )
    return GangRequest(
        accelerator=GPU,
        pods=draw(st.integers(1, 6)),
        units_per_pod=draw(st.sampled_from([1, 2, 3, 4, 8, 9])),
        nic_class=draw(st.sampled_from([None, None, "ib", "roce"])),
        nic_min_per_node=draw(st.sampled_from([None, None, 4, 8])),
        topology=need,
        spread=draw(st.sampled_from(["Pack", "Spread"])),
        avoid_nodes=frozenset(draw(st.lists(st.sampled_from(["n0", "n3"]), max_size=1))),
        peer_nodes=draw(st.dictionaries(st.sampled_from(["n0", "n1", "n2"]), st.integers(1, 3), max_size=3)),
    )


@st.composite
def a_tight_case(draw: st.DrawFn) -> tuple[World, GangRequest]:
    """Healthy nodes, gangs of several nodes, spares and few racks: where the choice of empty nodes matters."""
    nodes = []
    for index in range(draw(st.integers(3, 7))):
        rack = draw(st.sampled_from(["r0", "r0", "r1", None]))
        capacity = draw(st.sampled_from([3, 4, 8]))
        domains = {"block": "b0"} | ({"rack": rack} if rack else {})
        facts = NodeFacts(f"n{index}", GPU, "nvidia.com/gpu", capacity, "ib", 8, domains)
        nodes.append(Node(facts, min(capacity, draw(st.sampled_from([0, 0, 0, 1, 3])))))
    need = draw(st.sampled_from([None, TopologyNeed("rack"), TopologyNeed("rack", "preferred"), TopologyNeed("block")]))
    request = GangRequest(
        accelerator=GPU,
        pods=draw(st.integers(2, 8)),
        units_per_pod=draw(st.sampled_from([1, 2, 3, 4])),
        topology=need,
        peer_nodes=draw(st.dictionaries(st.sampled_from(["n0", "n1"]), st.integers(1, 2))),
        spread=draw(st.sampled_from(["Pack", "Spread"])),
    )
    return World(tuple(nodes), draw(st.integers(0, 3)), tolerated=False), request


CASES = st.one_of(st.tuples(a_world(), a_request()), a_tight_case())


@given(CASES)
@settings(max_examples=600, deadline=None)
def test_a_placement_keeps_every_rule_and_a_refusal_is_never_wrong(case: tuple[World, GangRequest]) -> None:
    world, request = case
    answer = world.fleet().place(request)
    assert isinstance(answer, Placement) == world.possible(request), answer
    if isinstance(answer, Refusal):
        return
    nodes = {node.facts.name: node for node in world.nodes}
    assert len(answer.nodes) == request.pods
    for name, units in answer.units_by_node.items():
        assert world.eligible(nodes[name], request)
        assert units <= nodes[name].free
    empties = [node for node in world.nodes if world.usable(node) and node.used == 0]
    opened = sum(node.used == 0 for name, node in nodes.items() if name in answer.nodes)
    assert opened == answer.opened_nodes <= max(0, len(empties) - world.spare_nodes)
    if request.topology is not None:
        domains = {nodes[name].facts.domains.get(request.topology.level) for name in answer.nodes}
        one = len(domains) == 1 and None not in domains and request.topology.domain in (None, *domains)
        assert answer.topology_met == one
        assert one or request.topology.mode == "preferred"


@given(CASES)
@settings(max_examples=200, deadline=None)
def test_a_preference_that_can_be_met_is_met(case: tuple[World, GangRequest]) -> None:
    world, request = case
    if request.topology is None:
        return
    strict = replace(request, topology=replace(request.topology, mode="required"))
    answer = world.fleet().place(replace(request, topology=replace(request.topology, mode="preferred")))
    if world.possible(strict):
        assert isinstance(answer, Placement) and answer.topology_met


@given(a_world(), a_request(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_the_order_of_events_does_not_matter(world: World, request: GangRequest, random: object) -> None:
    order = list(range(len(world.nodes)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = world.fleet(tuple(order))
    # and a node that came, was asked about, and changed or went leaves no trace
    first = world.nodes[0].facts
    shuffled.set_node("pool", replace(first, name="zz", domains={"rack": "r9"}))
    shuffled.place(request)
    shuffled.remove_node("zz")
    shuffled.set_node("pool", replace(first, capacity=1, domains={}, nic_class="other"))
    shuffled.place(request)
    shuffled.set_node("pool", first)
    assert shuffled.place(request) == world.fleet().place(request)


@given(a_world(5), a_request(), a_node("n9"))
@settings(max_examples=200, deadline=None)
def test_one_more_node_never_turns_success_into_refusal(world: World, request: GangRequest, extra: Node) -> None:
    fleet = world.fleet()
    if isinstance(fleet.place(request), Placement):
        fleet.set_node("pool", extra.facts)
        fleet.set_used(extra.facts.name, extra.used)
        assert isinstance(fleet.place(request), Placement)


@given(a_world(), a_request())
@settings(max_examples=200, deadline=None)
def test_freeing_units_never_turns_success_into_refusal_without_spares(world: World, request: GangRequest) -> None:
    world = replace(world, spare_nodes=0)
    if isinstance(world.fleet().place(request), Placement):
        freed = replace(world, nodes=tuple(replace(node, used=node.used // 2) for node in world.nodes))
        assert isinstance(freed.fleet().place(request), Placement)


@given(CASES)
@settings(max_examples=400, deadline=None)
def test_the_numbers_of_a_refusal_are_true(case: tuple[World, GangRequest]) -> None:
    world, request = case
    answer = world.fleet().place(request)
    if isinstance(answer, Placement):
        return
    (verdict,) = answer.verdicts
    per_pod, pods = request.units_per_pod, request.pods
    eligible = [node for node in world.nodes if world.eligible(node, request)]
    assert verdict.needed == per_pod * pods
    assert verdict.fits < pods
    assert verdict.message
    match verdict.reason:
        case Reason.EXCEEDS_NODE_SIZE:
            assert verdict.largest_block == max(node.facts.capacity for node in world.nodes) < per_pod
        case Reason.EXCEEDS_MAX_QUOTA:
            assert sum(node.facts.capacity // per_pod for node in world.nodes) < pods
        case Reason.NODES_UNAVAILABLE:
            assert sum(node.facts.capacity // per_pod for node in world.nodes if world.usable(node)) < pods
        case Reason.NIC_UNAVAILABLE:
            unrestricted = replace(request, nic_class=None, nic_min_per_node=None, avoid_nodes=frozenset())
            nodes = [node for node in world.nodes if world.eligible(node, replace(request, avoid_nodes=frozenset()))]
            assert sum(node.facts.capacity // per_pod for node in nodes) < pods
            plain = world.fleet().place(unrestricted)
            assert isinstance(plain, Placement) or ORDER[plain.reason] > ORDER[Reason.NIC_UNAVAILABLE]
        case Reason.NODES_AVOIDED:
            assert sum(node.facts.capacity // per_pod for node in eligible) < pods
        case Reason.WAITING_FOR_QUOTA | Reason.FRAGMENTED:
            assert verdict.free == sum(node.free for node in eligible)
            assert verdict.largest_block == max((node.free for node in eligible), default=0)
            assert (verdict.free < verdict.needed) == (verdict.reason is Reason.WAITING_FOR_QUOTA)
            assert verdict.fits == sum(node.free // per_pod for node in eligible)
            if pods == 1:
                assert verdict.largest_block < per_pod
        case Reason.SPARES_RESERVED:
            assert world.most_pods(request, spares=False)[None] >= pods
            assert verdict.fits == world.most_pods(request)[None]
        case Reason.TOPOLOGY_PLACEMENT_FAILED:
            assert request.topology is not None
            most = world.most_pods(request)
            assert most[None] >= pods
            pinned = request.topology.domain
            best = max((v for k, v in most.items() if k is not None and pinned in (None, k)), default=0)
            assert verdict.fits == best
            assert verdict.largest_block == best * per_pod < verdict.needed
        case other:
            raise AssertionError(f"a gate's reason for a pool that passed every gate: {other}")
