"""Down the list of choices: which takes the next replica, and why the ones before it did not. Pure but for `hold`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controlplane.model.cluster import PoolToleration
from operators.placement import GangRequest, Placement, Refusal, TopologyNeed
from operators.serving.names import pod_name
from operators.serving.render import ReplicaTemplate
from operators.serving.replicas import Replica
from operators.serving.shares import wanted_first
from operators.serving.snapshot import BackOff, Snapshot


@dataclass(frozen=True, slots=True)
class Placed:
    """The first choice that could be placed."""

    template: ReplicaTemplate
    placement: Placement


@dataclass(frozen=True, slots=True)
class BackingOff:
    """The first choice that has not been refused waits for its next attempt; worse choices are not tried for it."""

    template: ReplicaTemplate
    back_off: BackOff


@dataclass(frozen=True, slots=True)
class Unplaced:
    """No choice can be placed."""

    dominant: Refusal


Attempt = Placed | BackingOff | Unplaced


def peers_of(replicas: Iterable[Replica]) -> Counter[str]:
    """Pods of the deployment on each node."""
    return Counter(
        node for replica in replicas for pod in replica.alive if (node := pod.node_name or pod.target_node) is not None
    )


def request_of(
    template: ReplicaTemplate, snapshot: Snapshot, peers: Mapping[str, int], avoid: frozenset[str]
) -> GangRequest:
    """What a choice asks of placement. Raises InvalidSpec for numbers beyond what placement counts."""
    nic, topology = template.nic, template.topology
    return GangRequest(
        accelerator=template.accelerator,
        pods=template.pods,
        units_per_pod=template.units_per_pod,
        pools=template.pools,
        nic_class=None if nic is None else nic.nic_class,
        nic_min_per_node=None if nic is None else nic.min_per_node,
        topology=None if topology is None else TopologyNeed(topology.level, topology.mode),
        spread=snapshot.deployment.spec.spread,
        avoid_nodes=avoid,
        peer_nodes=peers,
        tolerations=_tolerations(template),
    )


def attempt(
    snapshot: Snapshot,
    back_off: Mapping[str, BackOff],
    peers: Mapping[str, int],
    avoid: frozenset[str],
    refusals: dict[int, Refusal],
    counts: Mapping[int, int],
) -> Attempt:
    """Try the choices in order, of a planned mix those below their share first. Refusals are noted by choice; a choice that
    fits loses its note. `counts`: replicas by choice."""
    for template in wanted_first(snapshot.templates, snapshot.shares, counts):
        waiting = back_off.get(template.revision)
        if waiting is not None:
            return BackingOff(template, waiting)
        answer = snapshot.placer.place(request_of(template, snapshot, peers, avoid))
        if isinstance(answer, Placement):
            refusals.pop(template.choice_index, None)
            return Placed(template, answer)
        refusals[template.choice_index] = answer
    # The user's first wish is what the condition explains; the others stand in status.choices.
    return Unplaced(refusals[snapshot.templates[0].choice_index])


def hold(snapshot: Snapshot, placed: Placed, slot: int, peers: Counter[str]) -> None:
    """Take the room for each pod of a replica."""
    metadata = snapshot.deployment.metadata
    for rank, node in enumerate(placed.placement.nodes):
        name = pod_name(metadata.name, placed.template.revision, slot, rank)
        snapshot.placer.hold(f"{metadata.namespace}/{name}", node, placed.template.units_per_pod)
        peers[node] += 1


def _tolerations(template: ReplicaTemplate) -> tuple[PoolToleration, ...]:
    """The pod template's own tolerations in placement's words."""
    return tuple(
        PoolToleration(
            key=item["key"],
            value=item.get("value") if item.get("operator", "Equal") == "Equal" else None,
            effect=item.get("effect") or None,
        )
        for item in template.tolerations
        if item.get("key")
    )
