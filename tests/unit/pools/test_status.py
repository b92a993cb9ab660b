"""What a pool says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from controlplane.model.cluster import GPUPoolSpec, GPUPoolStatus, NodeFacts
from operators.placement import PoolSupply, PoolTotals
from operators.pools.selectors import matches, nearest_miss, requirements
from operators.pools.status import Observed, common_nic, pool_facts, status
from operators.runtime import Condition

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 4, 0, 0, tzinfo=UTC)


def observed(**more: Any) -> Observed:
    defaults: dict[str, Any] = {
        "generation": 3,
        "deleting": False,
        "supply": PoolSupply("p", "l4"),
        "totals": PoolTotals(nodes=4, usable_nodes=3, capacity=32, free=16, largest_block=8, unusable={"cordoned": 1}),
        "facts": [],
        "nic": None,
        "cpu": False,
        "overlaps": {},
        "replicas": 0,
        "why_no_nodes": lambda: "no node meets kind=x",
    }
    return Observed(**defaults | more)


def condition(body: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return next(item for item in body["conditions"] if item["type"] == kind)


def said(spec: GPUPoolSpec | None = None, **more: Any) -> dict[str, Any]:
    return status(spec or GPUPoolSpec(), observed(**more), (), NOW)


def test_a_ready_pool_and_its_figures() -> None:
    body = said()
    assert condition(body, "Ready") == {
        "type": "Ready",
        "status": "True",
        "reason": "Ready",
        "message": "3 of 4 nodes usable; 1 cordoned",
        "lastTransitionTime": "2026-01-02T03:04:05Z",
        "observedGeneration": 3,
    }
    assert (body["accelerator"], body["freeAccelerators"], body["largestFreeBlock"]) == ("l4", 16, 8)
    assert "nic" not in body
    GPUPoolStatus.model_validate(body)


def test_a_cpu_pool_speaks_in_cores() -> None:
    totals = PoolTotals(nodes=1, usable_nodes=1, capacity=63_910, free=12_500, largest_block=12_500)
    body = said(cpu=True, totals=totals)
    assert (body["accelerators"], body["freeAccelerators"], body["largestFreeBlock"]) == (63, 12, 12)


EMPTY = PoolTotals()
UNUSABLE = PoolTotals(nodes=2, unusable={"not ready": 1, "quarantined": 1})
DIFFER = PoolSupply("p", None, blocked=("AcceleratorsDiffer", "nodes carry l4 (1), t4 (1)"))
UNKNOWN = PoolSupply("p", "h1000", blocked=("AcceleratorUnknown", "spec.accelerator h1000 is not in the catalogue"))


@pytest.mark.parametrize(
    ("spec", "seen", "reason", "part"),
    [
        ({}, {"totals": EMPTY}, "NoNodes", "no node meets kind=x"),
        ({"accelerator": "h1000"}, {"totals": EMPTY, "supply": UNKNOWN}, "AcceleratorUnknown", "h1000"),
        ({}, {"supply": DIFFER}, "AcceleratorsDiffer", "l4 (1), t4 (1)"),
        ({"suspend": True}, {}, "Suspended", "what runs goes on"),
        ({"suspend": True}, {"deleting": True}, "Deleting", "nothing new"),
        ({}, {"totals": UNUSABLE}, "AllNodesUnusable", "1 not ready, 1 quarantined"),
    ],
)
def test_one_dominant_reason(spec: dict[str, Any], seen: dict[str, Any], reason: str, part: str) -> None:
    ready = condition(said(GPUPoolSpec.model_validate(spec), **seen), "Ready")
    assert (ready["status"], ready["reason"]) == ("False", reason)
    assert part in ready["message"]


def test_overlap_and_blocked_deletion_are_said_and_taken_back() -> None:
    body = said(overlaps={"n1": "a", "n2": "a", "n3": "b"}, deleting=True, replicas=2)
    assert (
        "3 matching nodes are counted elsewhere (2 in a, 1 in b; by pool name)"
        in condition(body, "NodesOverlap")["message"]
    )
    assert condition(body, "DeletionBlocked")["reason"] == "ReplicasRunning"
    stored = tuple(
        Condition(item["type"], item["status"], item["reason"], item["message"], 3, item["lastTransitionTime"])
        for item in body["conditions"]
    )
    after = status(GPUPoolSpec(), observed(deleting=True), stored, LATER)
    assert condition(after, "NodesOverlap")["status"] == "False"
    assert condition(after, "NodesOverlap")["lastTransitionTime"] == "2026-01-02T04:00:00Z"
    assert condition(after, "Ready")["lastTransitionTime"] == "2026-01-02T03:04:05Z"


def test_conditions_that_never_applied_are_not_written() -> None:
    assert [item["type"] for item in said()["conditions"]] == ["Ready"]


def facts(name: str, **more: Any) -> NodeFacts:
    defaults: dict[str, Any] = {
        "accelerator": "l4",
        "resource": "nvidia.com/gpu",
        "capacity": 8,
        "nic_class": None,
        "nic_count": None,
        "domains": {"rack": f"r-{name}"},
        "sources": {"accelerator": "label x", "count": "allocatable nvidia.com/gpu", "rack": "label r", "health": "c"},
    }
    return NodeFacts(name=name, **defaults | more)


def test_facts_name_their_sources_and_what_is_missing() -> None:
    nodes = [facts("n1"), facts("n2", capacity=4), facts("n3", unhealthy="GpuUnhealthy", sources={"health": "c"})]
    found = {(item["fact"], item.get("source")): item for item in pool_facts(nodes)}
    assert found["accelerator", "label x"] | {} == {
        "fact": "accelerator",
        "value": "l4",
        "source": "label x",
        "nodes": 2,
        "missingNodes": 0,
    }
    assert found["accelerator", None]["missingNodes"] == 1
    assert found["count", "allocatable nvidia.com/gpu"]["value"] == "4-8"
    assert found["nic", None]["missingNodes"] == 3
    assert found["health", "c"]["value"] == "2 healthy; 1 GpuUnhealthy"
    assert found["rack", "label r"]["value"] == "r-n1, r-n2"
    assert ("zone", None) not in found


def test_many_values_are_counted_and_entries_bounded() -> None:
    nodes = [facts(f"n{i}", sources={"rack": f"label {i}"}) for i in range(50)]
    assert len(pool_facts(nodes)) == 32
    (rack,) = [item for item in pool_facts([facts(f"n{i}") for i in range(9)]) if item["fact"] == "rack"]
    assert rack["value"] == "r-n0, r-n1, r-n2, r-n3 and 5 more"


def test_common_nic() -> None:
    assert common_nic([facts("a")]) is None
    assert common_nic([facts("a", nic_class="x"), facts("b")]) == "x"
    assert common_nic([facts("a", nic_class="x"), facts("b", nic_class="w")]) == "w, x"


def selector(**more: Any) -> Any:
    return requirements(GPUPoolSpec.model_validate({"nodeSelector": more}).node_selector)


@pytest.mark.parametrize(
    ("operator", "values", "labels", "match"),
    [
        ("In", ["a", "b"], {"k": "b"}, True),
        ("In", ["a"], {}, False),
        ("NotIn", ["a"], {"k": "a"}, False),
        ("NotIn", ["a"], {}, True),
        ("Exists", [], {"k": ""}, True),
        ("Exists", [], {}, False),
        ("DoesNotExist", [], {"k": ""}, False),
        ("DoesNotExist", [], {}, True),
    ],
)
def test_selector_operators(operator: str, values: list[str], labels: dict[str, str], match: bool) -> None:
    required = selector(matchExpressions=[{"key": "k", "operator": operator, "values": values}])
    assert matches(required, labels) == match


def test_the_requirement_that_eliminates_all_nodes_is_named_with_what_they_carry() -> None:
    required = selector(
        matchLabels={"kind": "h100"}, matchExpressions=[{"key": "zone", "operator": "In", "values": ["c"]}]
    )
    nodes = [{"kind": "h100", "zone": "a"}, {"kind": "h100", "zone": "b"}, {"kind": "l4"}]
    assert nearest_miss(required, nodes) == (
        "no node meets zone=c; 2 of 3 nodes met the requirements before it; they carry a (1), b (1)"
    )
    assert nearest_miss(required, [{}]) == "no node meets kind=h100; 1 looked at; none of them carries that label"
    assert nearest_miss(required, []) == "the cluster has no nodes"
