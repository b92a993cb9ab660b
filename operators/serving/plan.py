"""The decision: from a snapshot of one deployment to actions. Pure: clock, room and memory come in as arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from controlplane.model.actions import Action, AwaitRoom, DeletePod, ReadEngines, Remember, Requeue, WriteStatus
from operators.placement import GangRequest, Placement, Refusal, TopologyNeed
from operators.placement.reasons import ORDER
from operators.placement.reasons import Reason as PlacementReason
from operators.serving import canary, status
from operators.serving.better import move_up
from operators.serving.canary_course import course
from operators.serving.draft import Draft
from operators.serving.objects import objects
from operators.serving.parts import joined, parts
from operators.serving.placing import BackingOff, Placed, attempt, hold, peers_of, request_of
from operators.serving.reasons import Reason
from operators.serving.render import pod_name
from operators.serving.repair import Repair, backed_off, bound_since, repairs, with_stranded
from operators.serving.replicas import Replica, gather, trouble
from operators.serving.rollout import Stock, moving, to_create, to_leave
from operators.serving.shares import standings
from operators.serving.slots import free_slot
from operators.serving.snapshot import BackOff, NodeState, PlanSettings, Snapshot

# How often a replica is looked at that waits for something nobody announces.
_IDLE_LOOK_S = 30.0
# A window's end is met this closely, and a phase that was written is acted upon this soon.
_CANARY_LOOK_S = 0.05
_PRIORITY_RANK = {"High": 0, "Normal": 1, "Low": 2}


def decide(snapshot: Snapshot, settings: PlanSettings, now_s: float) -> list[Action]:
    """What to do about one deployment now. Order matters: objects, deletions, creations, then the status that tells of
    them. Raises nothing of its own; `snapshot.placer` holds the room of every pod to be created."""
    found = course(snapshot, settings, now_s)
    drafts = [_drafted(part, settings, now_s) for one in found.parts for part in parts(one)]
    stepped = canary.step(found, drafts, now_s)
    out = objects(found.whole, drafts, stepped.serve)
    out += [action for draft in drafts for action in draft.actions if isinstance(action, DeletePod)]
    out += [action for draft in drafts for action in draft.actions if not isinstance(action, DeletePod)]
    written, events = status.build(found, drafts, stepped.status)
    out += [*events, *stepped.events]
    if written is not None:
        out.append(WriteStatus(written))
    notes = joined(snapshot.notes, [(draft.snapshot.role, draft.notes) for draft in drafts])
    notes = replace(notes, canary=stepped.watch)
    if notes != snapshot.notes:
        out.append(Remember(notes))
    out += _waits(snapshot, drafts)
    if stepped.read:
        out.append(ReadEngines(stepped.read))
    moments_s = [moment_s for draft in drafts for moment_s in draft.look_again_s]
    if stepped.again_s is not None:
        moments_s.append(max(_CANARY_LOOK_S, stepped.again_s - now_s))
    if moments_s:
        out.append(Requeue(min(moments_s)))
    return out


def _drafted(snapshot: Snapshot, settings: PlanSettings, now_s: float) -> Draft:
    """The decision about the replicas of one role."""
    gathered = gather(snapshot, settings, now_s)
    notes = snapshot.notes
    draft = Draft(
        snapshot,
        settings,
        now_s,
        gathered,
        kept=[replica for replica in gathered.replicas if not replica.leaving],
        back_off={
            revision: note
            for revision, note in notes.back_off.items()
            if _counts(note, settings, now_s) and not _recovered(note, revision, gathered.replicas)
        },
        avoid={node: until_s for node, until_s in notes.avoid.items() if until_s > now_s},
    )
    for pod in gathered.stuck:
        draft.actions.append(DeletePod(pod.name, pod.uid, 0, f"its node {pod.node_name} does not exist any more"))
    if snapshot.deployment.spec.suspend:
        for replica in list(draft.kept):
            draft.remove(replica, "suspended")
    elif snapshot.errors:
        _scale_down_only(draft)
    else:
        _repair(draft)
        _roll(draft)
    _watch_starting(draft)
    if snapshot.taken:
        draft.later(now_s + _IDLE_LOOK_S)
    outlook = snapshot.outlook
    if outlook is not None and outlook.again_s is not None:
        draft.later(now_s + outlook.again_s)
    if outlook is not None and outlook.news is not None:
        draft.record("Normal", "Planned", outlook.news)
    return draft


def _counts(note: BackOff, settings: PlanSettings, now_s: float) -> bool:
    """A note is forgotten when a failure now would start again at the shortest pause."""
    return now_s <= note.until_s + 2 * settings.back_off_max_s


def _recovered(note: BackOff, revision: str, replicas: Iterable[Replica]) -> bool:
    """Unschedulable pods count in a row: one that was bound since ends it."""
    return note.reason is Reason.POD_UNSCHEDULABLE and bound_since(replicas, revision, note.last_s)


def _scale_down_only(draft: Draft) -> None:
    """The spec cannot be rendered: what runs goes on, except what the user no longer wants at all."""
    stock = Stock(tuple(draft.kept), (), draft.desired)
    for replica, why in to_leave(stock, draft.snapshot.deployment.spec.rollout, draft.settings, draft.now_s, dip=False):
        draft.remove(replica, why)


def _repair(draft: Draft) -> None:
    known = draft.back_off
    for repair in repairs(draft.kept, draft.snapshot):
        if repair.stranded:
            draft.back_off = with_stranded(draft.back_off, repair, draft.settings, draft.now_s)
        elif repair.fails:
            draft.back_off = backed_off(draft.back_off, repair, draft.settings, draft.now_s)
        for node in repair.avoid:
            draft.avoid[node] = draft.now_s + draft.settings.avoid_node_s
        acted = bool(repair.pods)
        if repair.in_place:
            draft.remove_pods(repair.pods, repair.message)
            acted |= _recreate(draft, repair)
        else:
            draft.remove(repair.replica, repair.message)
        draft.repaired.append(repair)
        # A pod that nobody can bind is replaced again and again: worth one event, and then the condition says it.
        again = repair.stranded and repair.replica.revision in known
        if acted and not again:
            draft.record("Warning", "ReplicaReplaced", repair.message)


def _recreate(draft: Draft, repair: Repair) -> bool:
    """New pods for the missing ranks of a gang that goes on, in the pool and domain of the others. False when none is
    made: it has to wait for its pause, or for room."""
    template, replica = repair.replica.template, repair.replica
    if template is None or not repair.ranks:
        return False
    waiting = draft.back_off.get(template.revision)
    if waiting is not None and waiting.until_s > draft.now_s:
        draft.held = waiting
        draft.later(waiting.until_s)
        return False
    snapshot, peers = draft.snapshot, peers_of(draft.kept)
    base = request_of(template, snapshot, peers, frozenset(draft.avoid))
    topology = base.topology
    node = next((pod.node_name for pod in replica.alive if pod.node_name), None)
    if topology is not None and node is not None:
        topology = TopologyNeed(topology.level, topology.mode, snapshot.placer.domain_of(node, topology.level))
    for made, rank in enumerate(repair.ranks):
        request = GangRequest(
            accelerator=base.accelerator,
            pods=1,
            units_per_pod=base.units_per_pod,
            pools=(replica.pool,) if replica.pool else base.pools,
            nic_class=base.nic_class,
            nic_min_per_node=base.nic_min_per_node,
            topology=topology,
            spread=base.spread,
            avoid_nodes=base.avoid_nodes,
            peer_nodes=peers,
            tolerations=base.tolerations,
        )
        answer = snapshot.placer.place(request)
        if isinstance(answer, Refusal):
            draft.refused = answer
            return made > 0
        metadata = snapshot.deployment.metadata
        name = pod_name(metadata.name, template.revision, replica.slot, rank)
        snapshot.placer.hold(f"{metadata.namespace}/{name}", answer.nodes[0], template.units_per_pod)
        draft.make_pod(template, replica.slot, rank, answer.nodes[0], answer.pool)
    return True


def _roll(draft: Draft) -> None:
    """Create what is missing, drain what is too much, move up when there is room."""
    rollout = draft.snapshot.deployment.spec.rollout
    stock = _stock(draft)
    bad = next((found for replica in stock.current if (found := trouble(replica)) is not None), None)
    draft.trouble = bad
    wanted = to_create(stock, rollout)
    hopeless = _create(draft, wanted)
    incomplete = len(stock.current) + len(draft.made) < stock.desired
    if incomplete and not wanted and stock.old:
        hopeless = _probe(draft)
    draft.stalled = bool(stock.old) and (bad is not None or draft.held is not None)
    draft.no_room = bool(stock.old) and draft.refused is not None and (rollout.max_unavailable == 0 or hopeless)
    # Nothing that answers goes before its successor does when the successor may never come.
    dip = not draft.stalled and not hopeless
    for replica, why in to_leave(stock, rollout, draft.settings, draft.now_s, dip=dip):
        draft.remove(replica, why)
    if any(not replica.ready for replica in stock.old):
        draft.later(draft.now_s + draft.settings.unready_grace_s)
    if draft.refused is None and draft.held is None:
        move_up(draft, stock)


def _stock(draft: Draft) -> Stock:
    current = tuple(replica for replica in draft.kept if replica.template is not None)
    old = tuple(replica for replica in draft.kept if replica.template is None)
    places = standings(current, draft.snapshot.shares)
    up = draft.snapshot.deployment.spec.rollout.prefer_better != "Never" and moving(current, draft.desired, places)
    draft.moving = up
    return Stock(current, old, draft.desired, up, places)


def _create(draft: Draft, count: int) -> bool:
    """Place and create up to `count` replicas. True when no choice can ever be placed as things are."""
    peers = peers_of(draft.kept)
    avoid = frozenset(draft.avoid)
    pods = 0
    waiting = {revision: note for revision, note in draft.back_off.items() if note.until_s > draft.now_s}
    for _ in range(count):
        if pods >= draft.settings.batch_pods:
            draft.later(draft.now_s)
            return False
        answer = attempt(draft.snapshot, waiting, peers, avoid, draft.refusals, draft.counts)
        if isinstance(answer, Placed):
            slot = free_slot(draft.gathered.occupied, answer.template.revision)
            hold(draft.snapshot, answer, slot, peers)
            draft.make(answer, slot)
            pods += answer.template.pods
        elif isinstance(answer, BackingOff):
            draft.held = answer.back_off
            draft.later(answer.back_off.until_s)
            return False
        else:
            draft.refused = answer.dominant
            for until_s in draft.avoid.values():
                draft.later(until_s)
            return _hopeless(draft)
    return False


def _probe(draft: Draft) -> bool:
    """Whether a successor could be placed at all, when none may be created before an old replica leaves."""
    peers = peers_of(draft.kept)
    for template in draft.snapshot.templates:
        request = request_of(template, draft.snapshot, peers, frozenset(draft.avoid))
        answer = draft.snapshot.placer.place(request)
        if isinstance(answer, Placement):
            return False
        draft.refusals[template.choice_index] = answer
    draft.refused = draft.refusals[0]
    return _hopeless(draft)


def _hopeless(draft: Draft) -> bool:
    """Every choice fails on a constraint that no draining of ours can meet."""
    limit = ORDER[PlacementReason.NODES_AVOIDED]
    return all(ORDER[refusal.reason] < limit for refusal in draft.refusals.values())


def _watch_starting(draft: Draft) -> None:
    """Look again when a starting replica is overdue, stranded, or its node has been silent for too long."""
    deadline_s = draft.snapshot.deployment.spec.startup_deadline_seconds
    if draft.made:
        draft.later(draft.now_s + deadline_s)
    for replica in draft.kept:
        for pod in replica.alive:
            if pod.ready:
                continue
            due_s: list[float] = [replica.unready_since_s + deadline_s]
            if pod.node_name is None:
                due_s.append(pod.created_s + draft.settings.lost_race_after_s)
            elif draft.snapshot.node_state(pod.node_name) is not NodeState.READY:
                due_s.append(replica.unready_since_s + draft.settings.silent_after_s)
            coming = [moment_s for moment_s in due_s if moment_s > draft.now_s]
            draft.later(min(coming, default=draft.now_s + _IDLE_LOOK_S))


def _waits(snapshot: Snapshot, drafts: Sequence[Draft]) -> list[Action]:
    """Whom room that appears is for."""
    missing = any(draft.refused is not None for draft in drafts)
    if not missing and not any(draft.wants_better for draft in drafts):
        return []
    created = snapshot.deployment.metadata.creation_timestamp
    rank = _PRIORITY_RANK[snapshot.deployment.spec.priority]
    # Those that miss replicas come before those that only wish for better ones.
    rank += 0 if missing else len(_PRIORITY_RANK)
    return [AwaitRoom(rank, 0.0 if created is None else created.timestamp())]
