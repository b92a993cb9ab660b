"""Moving back up the list: `rollout.preferBetter: WhenFree`. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from operators.placement import Placement
from operators.serving.draft import Draft
from operators.serving.placing import Placed, hold, peers_of, request_of
from operators.serving.render import ReplicaTemplate
from operators.serving.replicas import Replica
from operators.serving.rollout import Stock
from operators.serving.shares import standings
from operators.serving.slots import free_slot


def move_up(draft: Draft, stock: Stock) -> None:
    """Start a replica on a better choice once it has had room for `better_after_s`, one at a time.

    Only from rest: nothing rolls, nothing is missing, all answer. With surge the new one comes first and the worse one
    leaves when it answers (`rollout.to_leave`); without, the worse one leaves if the promise allows it.
    """
    rollout = draft.snapshot.deployment.spec.rollout
    places = standings(stock.current, draft.snapshot.shares)

    def place(replica: Replica) -> int:
        return places[replica.revision, replica.slot]

    worst = max(stock.current, key=lambda replica: (place(replica), replica.created_s), default=None)
    at_rest = not stock.old and len(stock.current) == stock.desired == stock.ready and not draft.made
    if rollout.prefer_better == "Never" or worst is None or place(worst) == 0 or not at_rest:
        return
    better = _better_ones(draft, worst)
    if not better:
        return  # of a planned mix every choice has its share: whoever is wanted beyond that is as good anywhere
    draft.wants_better = True
    peers = peers_of(stock.current)
    placed = _better(draft, better, peers)
    if placed is None:
        return
    since_s = draft.snapshot.notes.better_since_s
    draft.better_since_s = draft.now_s if since_s is None else since_s
    due_s = draft.better_since_s + draft.settings.better_after_s
    if draft.now_s < due_s:
        draft.later(due_s)
        return
    if rollout.max_surge > 0:
        slot = free_slot(draft.gathered.occupied, placed.template.revision)
        hold(draft.snapshot, placed, slot, peers)
        draft.make(placed, slot)
        draft.moving = True
    elif stock.ready - 1 >= stock.desired - rollout.max_unavailable:
        draft.remove(worst, "a better accelerator choice has room")
        draft.moving = True
    draft.better_since_s = None


def _better_ones(draft: Draft, worst: Replica) -> Sequence[ReplicaTemplate]:
    """Choices before the replica's own; of a planned mix those below their share."""
    shares, counts = draft.snapshot.shares, draft.counts
    if not shares:
        return draft.snapshot.templates[: worst.choice]
    return [one for one in draft.snapshot.templates if counts[one.choice_index] < shares.get(one.choice_index, 0)]


def _better(draft: Draft, templates: Sequence[ReplicaTemplate], peers: Counter[str]) -> Placed | None:
    avoid = frozenset(draft.avoid)
    for template in templates:
        if template.revision in draft.back_off:
            continue
        answer = draft.snapshot.placer.place(request_of(template, draft.snapshot, peers, avoid))
        if isinstance(answer, Placement):
            draft.refusals.pop(template.choice_index, None)
            return Placed(template, answer)
        draft.refusals[template.choice_index] = answer
    return None
