"""Why a pool cannot take a gang: the first failing constraint with its numbers, and what would fix it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from operators.placement import solve
from operators.placement.arrays import Bools, Ints, PoolArrays
from operators.placement.filters import Filtered
from operators.placement.reasons import Reason
from operators.placement.types import GangRequest, PoolVerdict
from operators.placement.usability import Usability, untolerated

_NAMES_SHOWN = 5


def no_pool(request: GangRequest, pools: Sequence[PoolArrays]) -> PoolVerdict:
    """No pool at all offers the accelerator."""
    offered = sorted({pool.supply.accelerator for pool in pools if pool.supply.accelerator is not None})
    return PoolVerdict(
        pool=None,
        reason=Reason.NO_MATCHING_FLAVOR,
        message=f"no GPUPool offers accelerator {request.accelerator}; offered: {_some(offered)}",
        needed=request.units,
        fix=f"create a GPUPool with {request.accelerator} nodes or add a choice with an offered accelerator",
    )


def unknown_pool(request: GangRequest, name: str, known: Sequence[str]) -> PoolVerdict:
    """The request names a pool that does not exist."""
    return PoolVerdict(
        pool=name,
        reason=Reason.MISCONFIGURED,
        message=f"GPUPool {name} does not exist; there are: {_some(known)}",
        needed=request.units,
        fix="correct the name in the choice's pools, or create the GPUPool",
    )


def pool_gate(request: GangRequest, pool: PoolArrays) -> PoolVerdict | None:
    """Constraints on the pool as such; None when it passes."""
    supply = pool.supply
    if supply.accelerator != request.accelerator and not (supply.accelerator is None and supply.blocked):
        return _verdict(
            request,
            pool,
            Reason.NO_MATCHING_FLAVOR,
            f"pool has {supply.accelerator or 'no known accelerator'}, the choice asks for {request.accelerator}",
            fix="name a pool of that accelerator, or none",
        )
    if supply.suspended:
        return _verdict(
            request, pool, Reason.SUSPENDED, "pool is suspended", fix="set spec.suspend of the GPUPool to false"
        )
    if supply.blocked is not None:
        reason, message = supply.blocked
        return _verdict(
            request, pool, Reason.POOL_NOT_READY, f"{reason}: {message}", fix="see the GPUPool's Ready condition"
        )
    return None


def first_failing(request: GangRequest, filtered: Filtered) -> PoolVerdict:
    """The verdict on a pool whose nodes cannot take the gang. Stages run in the order of `Reason`."""
    pool = filtered.candidates.arrays
    per_pod, pods = request.units_per_pod, request.pods
    everyone = np.ones(len(pool), np.bool_)
    in_principle = pool.capacity // per_pod
    largest = int(pool.capacity.max(initial=0))
    if largest < per_pod:
        return _verdict(
            request,
            pool,
            Reason.EXCEEDS_NODE_SIZE,
            f"each pod needs {per_pod} on one node, the largest node has {largest}",
            mask=everyone,
            held=pool.capacity,
            fix=f"split the shape over more pods of at most {largest}" if largest else "",
        )
    if int(in_principle.sum()) < pods:
        return _verdict(
            request,
            pool,
            Reason.EXCEEDS_MAX_QUOTA,
            f"{pods} pods of {per_pod} exceed the whole pool: even empty it takes {int(in_principle.sum())}",
            mask=everyone,
            held=pool.capacity,
            fix="add nodes, or ask for a smaller shape",
        )
    stages = (
        (Reason.NODES_UNAVAILABLE, filtered.usable, _unusable_text, _unusable_fix),
        (Reason.NIC_UNAVAILABLE, filtered.with_nic, _nic_text, _nic_fix),
        (Reason.NODES_AVOIDED, filtered.allowed, _avoided_text, _avoided_fix),
    )
    before = everyone
    for reason, mask, text, fix in stages:
        fits = int(in_principle[mask].sum())
        if fits < pods:
            free = np.maximum(pool.capacity - pool.used, 0)
            message = f"{text(request, filtered)}; the rest takes {fits} of {pods} pods even when empty"
            verdict = _verdict(request, pool, reason, message, mask=before, held=free, fix=fix(request, filtered))
            return replace(verdict, fits=fits)
        before = mask
    return _by_room(request, filtered)


def _by_room(request: GangRequest, filtered: Filtered) -> PoolVerdict:
    """Enough suitable nodes exist: what is missing is room, spares, or one domain."""
    candidates, pool = filtered.candidates, filtered.candidates.arrays
    per_pod, pods, held = request.units_per_pod, request.pods, filtered.candidates.free
    verdict = _verdict(request, pool, Reason.WAITING_FOR_QUOTA, "", mask=filtered.allowed, held=held)
    fits = int(candidates.slots.sum())
    verdict = replace(verdict, fits=min(fits, pods))
    free, largest = verdict.free or 0, verdict.largest_block or 0
    if fits < pods:
        need = f"needs {per_pod} free on one node" if pods == 1 else f"needs {pods} times {per_pod} free, {fits} fit"
        fix = _free_more(request, filtered, pods - fits)
        if free < request.units:
            return replace(verdict, message=f"{need}; {free} free in all, largest block {largest}", fix=fix)
        message = f"{need}; {free} free in pieces, largest block {largest}"
        return replace(verdict, reason=Reason.FRAGMENTED, message=message, fix=fix)
    fits = solve.fitting(candidates)
    if fits < pods:
        spare = pool.supply.spare_nodes
        return replace(
            verdict,
            reason=Reason.SPARES_RESERVED,
            fits=fits,
            message=f"{fits} of {pods} pods fit while {_nodes(spare, 'empty')} {_are(spare)} kept as spare",
            fix="lower spec.spareNodes of the GPUPool or wait for room on nodes in use",
        )
    return _topology(request, filtered, verdict)


def _topology(request: GangRequest, filtered: Filtered, verdict: PoolVerdict) -> PoolVerdict:
    need = request.topology
    if need is None:
        raise AssertionError("a gang without topology that fits the pool was placed")  # the solver and this page differ
    pool, pods = filtered.candidates.arrays, request.pods
    inside = solve.in_named_domain(filtered.candidates, need)
    domains, count = solve.dense(pool, need.level)
    fits = solve.domain_fitting(inside, domains, count)[:-1]
    verdict = replace(verdict, reason=Reason.TOPOLOGY_PLACEMENT_FAILED)
    if not bool((pool.domain(need.level)[filtered.allowed] >= 0).any()):
        return replace(
            verdict,
            fits=0,
            largest_block=0,
            message=f"no suitable node says its {need.level}",
            fix=f"set spec.topologyKeys.{need.level} of the GPUPool to the node label that names it",
        )
    best = int(np.argmax(fits))
    name = pool.domain_names(need.level)[best] if need.domain is None else need.domain
    most = int(fits[best]) if need.domain is None else int(fits.max(initial=0))
    return replace(
        verdict,
        fits=most,
        largest_block=most * request.units_per_pod,
        message=f"{pods} pods of {request.units_per_pod} do not fit in one {need.level}: {name} takes {most}",
        fix=f"free {(pods - most) * request.units_per_pod} more in {need.level} {name}"
        + ("" if need.domain is not None else ", use mode preferred, or a broader level"),
    )


def with_alternative(
    request: GangRequest, verdicts: tuple[PoolVerdict, ...], others: Sequence[PoolArrays]
) -> tuple[PoolVerdict, ...]:
    """Name one pool outside the question that has the room now, so that the reader sees a way out."""
    cpu = request.accelerator.startswith("cpu-")
    best: tuple[int, PoolArrays] | None = None
    for pool in others:
        supply = pool.supply
        pool.refresh()
        if supply.suspended or supply.blocked or supply.accelerator is None or not verdicts:
            continue
        if supply.accelerator.startswith("cpu-") != cpu:
            continue
        free = pool.totals()
        if free.largest_block >= request.units_per_pod and free.free >= request.units:
            best = max(best or (0, pool), (free.free, pool), key=lambda item: item[0])
    if best is None:
        return verdicts
    free_units, pool = best
    what = f"allow pool {pool.supply.name} ({pool.supply.accelerator}, {free_units} free)"
    return tuple(replace(item, fix=f"{item.fix}, or {what}" if item.fix else what) for item in verdicts)


def _verdict(
    request: GangRequest,
    pool: PoolArrays,
    reason: Reason,
    message: str,
    *,
    mask: Bools | None = None,
    held: Ints | None = None,
    fix: str = "",
) -> PoolVerdict:
    free = largest = None
    if mask is not None and held is not None:
        free, largest = int(held[mask].sum()), int(held[mask].max(initial=0))
    return PoolVerdict(pool.supply.name, reason, message, request.units, free, largest, 0, fix)


def _unusable_text(_: GangRequest, filtered: Filtered) -> str:
    pool = filtered.candidates.arrays
    counts = np.bincount(pool.state[~filtered.usable], minlength=len(Usability))
    causes = ", ".join(f"{int(counts[state])} {state.words}" for state in Usability if counts[state])
    return f"nodes that take nothing new: {causes or 'none'}"


def _unusable_fix(request: GangRequest, filtered: Filtered) -> str:
    pool = filtered.candidates.arrays
    state = pool.state[~filtered.usable]
    if len(state) == 0:
        return ""
    common = Usability(int(np.bincount(state).argmax()))
    if common is Usability.TAINTED:
        first = pool.node(pool.names[int(np.flatnonzero(~filtered.usable & (pool.state == int(common)))[0])])
        both = (*pool.supply.tolerations, *request.tolerations)
        taint = next(iter(untolerated(first.taints, both)), None) if first else None
        return f"remove taint {taint.key}={taint.value}:{taint.effect} or tolerate it in the GPUPool" if taint else ""
    return {
        Usability.NOT_READY: "bring the nodes back to Ready",
        Usability.QUARANTINED: "repair the nodes and lift their quarantine",
        Usability.UNHEALTHY: "repair the devices the nodes report as unhealthy",
        Usability.CORDONED: "uncordon nodes",
        Usability.NO_DEVICES: "start the device plugin or DRA driver: the nodes offer no accelerators",
    }.get(common, "")


def _nic_text(request: GangRequest, filtered: Filtered) -> str:
    rails = "" if request.nic_min_per_node is None else f" with at least {request.nic_min_per_node} on each"
    suitable, usable = int(filtered.with_nic.sum()), int(filtered.usable.sum())
    return f"{suitable} of {usable} usable nodes have NIC class {request.nic_class or 'any'}{rails}"


def _nic_fix(_: GangRequest, filtered: Filtered) -> str:
    pool = filtered.candidates.arrays
    unknown = int(((pool.nic < 0) | (pool.nic_count < 0))[filtered.usable].sum())
    if unknown:
        return f"NIC class or count is unknown on {_nodes(unknown)}: state spec.nic of the GPUPool"
    return "ask for a NIC class and count the pool has"


def _avoided_text(request: GangRequest, filtered: Filtered) -> str:
    avoided = int(filtered.with_nic.sum()) - int(filtered.allowed.sum())
    return f"{_nodes(avoided, 'suitable')} {_are(avoided)} avoided after failures there"


def _avoided_fix(_: GangRequest, __: Filtered) -> str:
    return "look at the pods' last failures on these nodes; the exclusion ends by itself"


def _free_more(request: GangRequest, filtered: Filtered, missing: int) -> str:
    """The cheapest way to make room: units to free, and where when one node is enough."""
    pool, per_pod = filtered.candidates.arrays, request.units_per_pod
    free = filtered.candidates.free
    nodes = np.flatnonzero(filtered.allowed & (pool.capacity // per_pod > filtered.candidates.slots))
    if len(nodes) == 0:
        return ""
    cost = per_pod - free[nodes] % per_pod
    order = np.argsort(cost, kind="stable")[:missing]
    total = int(cost[order].sum()) + per_pod * (missing - len(order))
    where = f"node {pool.names[int(nodes[order[0]])]}" if len(order) == 1 else f"{len(order)} nodes"
    return f"free {total} more on {where}"


def _nodes(count: int, kind: str = "") -> str:
    return f"{count} {kind} node{'s' * (count != 1)}".replace("  ", " ")


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _some(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
