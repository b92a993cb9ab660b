"""What a `GPUPool` says about itself: figures, facts with their sources, conditions. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controlplane.model.cluster import GPUPoolSpec, NodeFacts
from operators.placement import PoolSupply, PoolTotals
from operators.pools.free_nodes import free_nodes
from operators.runtime import Condition, set_condition

READY = "Ready"
OVERLAPPING = "NodesOverlap"
DELETION_BLOCKED = "DeletionBlocked"

_ALWAYS = ("accelerator", "count", "nic", "nicCount", "nvlink-domain", "block", "rack", "health")
_WHERE_KNOWN = ("datacenter", "zone", "region")
_VALUES_SHOWN = 4
_NODES_SHOWN = 5
_FACTS_MAX = 32
_MILLICORES_PER_CORE = 1000


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything a pool's status is computed from, besides its spec. `why_no_nodes` is asked only when needed."""

    generation: int
    deleting: bool
    supply: PoolSupply
    totals: PoolTotals
    facts: Sequence[Mapping[str, Any]]
    nic: str | None
    cpu: bool
    overlaps: Mapping[str, str]
    replicas: int
    why_no_nodes: Callable[[], str]


def status(spec: GPUPoolSpec, seen: Observed, conditions: Sequence[Condition], now: datetime) -> dict[str, Any]:
    """The whole status as the API stores it; `conditions` are the present ones, kept where nothing changed."""
    totals = seen.totals
    scale = _MILLICORES_PER_CORE if seen.cpu else 1
    updated = tuple(conditions)
    for condition in (_ready(spec, seen), _overlapping(seen), _deletion(seen)):
        known = any(item.type == condition.type for item in updated)
        if condition.status == "True" or known or condition.type == READY:
            updated = set_condition(updated, condition, now)
    named = {"accelerator": seen.supply.accelerator, "nic": seen.nic}
    return {
        "observedGeneration": seen.generation,
        **{key: name for key, name in named.items() if name is not None},
        "nodes": totals.nodes,
        "readyNodes": totals.usable_nodes,
        "quarantinedNodes": totals.quarantined_nodes,
        "spareNodes": totals.spare_nodes,
        "accelerators": totals.capacity // scale,
        "freeAccelerators": totals.free // scale,
        "largestFreeBlock": totals.largest_block // scale,
        "freeNodes": [item.model_dump(by_alias=True) for item in free_nodes(dict(totals.free_nodes), scale)],
        "facts": [dict(fact) for fact in seen.facts],
        "conditions": [_as_dict(condition) for condition in updated],
    }


def invalid(generation: int, message: str, conditions: Sequence[Condition], now: datetime) -> dict[str, Any]:
    """Status of a pool whose spec cannot be read."""
    ready = Condition(READY, "False", "InvalidSpec", message, generation)
    return {
        "observedGeneration": generation,
        "conditions": [_as_dict(condition) for condition in set_condition(conditions, ready, now)],
    }


def pool_facts(nodes: Sequence[NodeFacts]) -> list[dict[str, Any]]:
    """Each fact once per source that gave it, and once more for the nodes on which it is missing."""
    out: list[dict[str, Any]] = []
    for fact in (*_ALWAYS, *_WHERE_KNOWN):
        by_source: dict[str, list[NodeFacts]] = defaultdict(list)
        missing = 0
        for node in nodes:
            source = node.sources.get(fact)
            if source is None:
                missing += 1
            else:
                by_source[source].append(node)
        for source, members in sorted(by_source.items(), key=lambda item: (-len(item[1]), item[0])):
            value = _value(fact, members)
            said = {} if value is None else {"value": value}
            out.append({"fact": fact, **said, "source": source, "nodes": len(members)})
        if missing and (fact in _ALWAYS or by_source):
            out.append({"fact": fact, "missingNodes": missing})
    return [{"nodes": 0, "missingNodes": 0, **item} for item in out[:_FACTS_MAX]]


def common_nic(nodes: Iterable[NodeFacts]) -> str | None:
    """The NIC class when all nodes that know theirs agree; a list when they differ; None when none knows."""
    found = sorted({node.nic_class for node in nodes if node.nic_class is not None})
    return _some(found) if found else None


def _ready(spec: GPUPoolSpec, seen: Observed) -> Condition:
    totals = seen.totals

    def no(reason: str, message: str) -> Condition:
        return Condition(READY, "False", reason, message, seen.generation)

    blocked = seen.supply.blocked
    if blocked is not None and blocked[0] == "AcceleratorUnknown" and spec.accelerator is not None:
        return no(*blocked)
    if totals.nodes == 0:
        return no("NoNodes", seen.why_no_nodes())
    if blocked is not None:
        hint = "state spec.accelerator, or narrow the selector"
        return no(blocked[0], f"{blocked[1]}; {hint}")
    if seen.deleting:
        return no("Deleting", "the pool is being deleted: nothing new is placed, what runs goes on")
    if spec.suspend:
        return no("Suspended", "spec.suspend: nothing new is placed, what runs goes on")
    if totals.usable_nodes == 0:
        return no("AllNodesUnusable", f"none of {totals.nodes} nodes takes new pods: {_causes(totals)}")
    causes = f"; {_causes(totals)}" if totals.unusable else ""
    message = f"{totals.usable_nodes} of {totals.nodes} nodes usable{causes}"
    return Condition(READY, "True", READY, message, seen.generation)


def _overlapping(seen: Observed) -> Condition:
    if not seen.overlaps:
        return Condition(OVERLAPPING, "False", "NoOverlap", "", seen.generation)
    counts = Counter(seen.overlaps.values())
    where = ", ".join(f"{count} in {pool}" for pool, count in sorted(counts.items())[:_VALUES_SHOWN])
    some = ", ".join(sorted(seen.overlaps)[:_NODES_SHOWN])
    message = f"{len(seen.overlaps)} matching nodes are counted elsewhere ({where}; by pool name), among them {some}"
    return Condition(OVERLAPPING, "True", "NodesOverlap", message, seen.generation)


def _deletion(seen: Observed) -> Condition:
    if seen.deleting and seen.replicas:
        message = f"replica pods in the pool: {seen.replicas}; it goes when they have gone or moved"
        return Condition(DELETION_BLOCKED, "True", "ReplicasRunning", message, seen.generation)
    return Condition(DELETION_BLOCKED, "False", "NotBlocked", "", seen.generation)


def _causes(totals: PoolTotals) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in totals.unusable.items())


def _value(fact: str, nodes: Sequence[NodeFacts]) -> str | None:
    if fact in {"count", "nicCount"}:
        amounts = [node.capacity if fact == "count" else node.nic_count for node in nodes]
        known = [amount for amount in amounts if amount is not None]
        unit = "m" if fact == "count" and nodes[0].resource == "cpu" else ""
        if not known:
            return None
        low, high = min(known), max(known)
        return f"{low}{unit}" if low == high else f"{low}{unit}-{high}{unit}"
    if fact == "health":
        ill = Counter(node.unhealthy for node in nodes if node.unhealthy is not None)
        well = len(nodes) - sum(ill.values())
        return "; ".join(
            [f"{well} healthy", *(f"{count} {cause}" for cause, count in sorted(ill.items())[:_VALUES_SHOWN])]
        )
    if fact == "accelerator":
        return _some(sorted({node.accelerator for node in nodes if node.accelerator is not None}))
    if fact == "nic":
        return common_nic(nodes)
    return _some(sorted({node.domains[fact] for node in nodes if fact in node.domains}))


def _some(names: Sequence[str]) -> str | None:
    if not names:
        return None
    more = len(names) - _VALUES_SHOWN
    return ", ".join(names[:_VALUES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _as_dict(condition: Condition) -> dict[str, Any]:
    out: dict[str, Any] = {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": condition.lastTransitionTime,
    }
    if condition.observedGeneration is not None:
        out["observedGeneration"] = condition.observedGeneration
    return out
