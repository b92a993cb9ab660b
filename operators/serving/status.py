"""The status of a deployment, from a finished draft: counts, verdicts, two conditions, one dominant reason. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from controlplane.model import labels
from controlplane.model.actions import Record
from controlplane.model.resource import Condition
from controlplane.model.serving import PoolReplicas, ServingDeploymentStatus
from operators.runtime import status_changed
from operators.serving import judgement
from operators.serving.draft import Draft
from operators.serving.reasons import Reason
from operators.serving.render import endpoint
from operators.serving.verdicts import verdicts

_MESSAGE_MAX = 2_000
_POOLS_MAX = 64


def build(draft: Draft) -> tuple[dict[str, Any] | None, list[Record]]:
    """The status as JSON, and the events that its change is worth. The caller compares it with what is stored."""
    snapshot = draft.snapshot
    deployment, before = snapshot.deployment, snapshot.deployment.status
    verdict = judgement.judge(draft)
    ready = sum(replica.ready for replica in draft.kept)
    updated = sum(replica.template is not None for replica in draft.kept) + len(draft.made)
    total = len(draft.kept) + len(draft.made)
    accelerators = Counter([r.accelerator for r in draft.kept] + [m.template.accelerator for m in draft.made])
    generation = deployment.metadata.generation
    now = datetime.fromtimestamp(int(draft.now_s), UTC)
    status = ServingDeploymentStatus(
        observed_generation=generation,
        replicas=total,
        ready_replicas=ready,
        # With errors nobody knows what the current revision is; what was last said stays.
        updated_replicas=before.updated_replicas if snapshot.errors else updated,
        selector=f"{labels.DEPLOYMENT}={deployment.metadata.name},{labels.LEADER}=true",
        revision=before.revision if snapshot.errors else _revision(draft),
        accelerator=accelerators.most_common(1)[0][0] or None if accelerators else None,
        reason=verdict.ready_reason,
        choices=before.choices if snapshot.errors else verdicts(draft),
        pools=_pools(draft),
        endpoints=before.endpoints if snapshot.errors else [_endpoint(draft)],
        conditions=[
            _condition(before, "Ready", verdict.ready, verdict.ready_reason, verdict.ready_message, generation, now),
            _condition(
                before,
                "Progressing",
                verdict.progressing,
                verdict.progressing_reason,
                verdict.progressing_message,
                generation,
                now,
            ),
            *_planned(draft, before, generation, now),
        ],
        plan=None if snapshot.outlook is None else snapshot.outlook.plan,
        last_rollout_time=_rolled_out(draft, ready, updated, total, now),
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True), _events(draft, verdict, before, status)


def undecided(
    name: str, generation: int, before: ServingDeploymentStatus, reason: Reason, message: str, now_s: float
) -> dict[str, Any]:
    """Status of an object that nothing could be decided about: nothing is touched but the conditions."""
    now = datetime.fromtimestamp(int(now_s), UTC)
    status = before.model_copy(
        update={
            "observed_generation": generation,
            "reason": reason.value,
            "selector": f"{labels.DEPLOYMENT}={name},{labels.LEADER}=true",
            "conditions": [
                _condition(before, "Ready", "False", reason.value, message, generation, now),
                _condition(before, "Progressing", "False", reason.value, message, generation, now),
            ],
        }
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)


def only_details(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether nothing but texts and free room differs: true of every deployment that waits, at every change of the
    cluster, so worth a write only now and then."""
    return not status_changed(_bare(stored), _bare(wanted))


def _bare(status: Mapping[str, Any]) -> dict[str, Any]:
    conditions = [{**item, "message": ""} for item in status.get("conditions") or ()]
    choices = [{**item, "message": "", "free": None, "largestBlock": None} for item in status.get("choices") or ()]
    return {**status, "conditions": conditions, "choices": choices}


def _condition(
    before: ServingDeploymentStatus,
    kind: str,
    status: Literal["True", "False", "Unknown"],
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> Condition:
    old = next((condition for condition in before.conditions if condition.type == kind), None)
    since = old.last_transition_time if old is not None and old.status == status else now
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=message if len(message) <= _MESSAGE_MAX else message[: _MESSAGE_MAX - 1] + "…",
        observed_generation=generation,
        last_transition_time=since,
    )


def _planned(draft: Draft, before: ServingDeploymentStatus, generation: int, now: datetime) -> list[Condition]:
    """The Planned condition of an auto deployment."""
    outlook = draft.snapshot.outlook
    if outlook is None:
        return []
    return [_condition(before, "Planned", outlook.status, outlook.reason.value, outlook.message, generation, now)]


def _revision(draft: Draft) -> str | None:
    """The current revision most replicas have; the first choice's while there is none."""
    revisions = [replica.revision for replica in draft.kept if replica.template is not None]
    revisions += [made.template.revision for made in draft.made]
    if revisions:
        return Counter(revisions).most_common(1)[0][0]
    return draft.snapshot.templates[0].revision if draft.snapshot.templates else None


def _endpoint(draft: Draft) -> Any:
    template = next((replica.template for replica in draft.kept if replica.template is not None), None)
    if template is None:
        template = draft.made[0].template if draft.made else None
    return endpoint(draft.snapshot.deployment, draft.settings.render, template)


def _pools(draft: Draft) -> list[PoolReplicas]:
    placed: Counter[tuple[str, str]] = Counter()
    ready: Counter[tuple[str, str]] = Counter()
    for replica in draft.kept:
        where = (replica.pool, replica.accelerator)
        placed[where] += 1
        ready[where] += replica.ready
    for made in draft.made:
        placed[made.pool, made.template.accelerator] += 1
    return [
        PoolReplicas(pool=pool, accelerator=accelerator, replicas=count, ready=ready[pool, accelerator])
        for (pool, accelerator), count in sorted(placed.items())[:_POOLS_MAX]
    ]


def _rolled_out(draft: Draft, ready: int, updated: int, total: int, now: datetime) -> datetime | None:
    """When the current revision became the only one, and answered."""
    before = draft.snapshot.deployment.status
    if draft.snapshot.errors or updated < total or not ready or ready < draft.desired:
        return before.last_rollout_time
    was_done = before.revision == _revision(draft) and before.last_rollout_time is not None
    return before.last_rollout_time if was_done else now


def _events(
    draft: Draft,
    verdict: judgement.Verdict,
    before: ServingDeploymentStatus,
    status: ServingDeploymentStatus,
) -> list[Record]:
    """Only what a person should hear of, and only when it begins."""
    events = []
    for made in draft.made:
        if made.template.choice_index > 0 and not draft.moving:
            refused = draft.refusals.get(0)
            why = f": {refused.message}" if refused is not None else ""
            message = f"replica placed on choice {made.template.choice_index} ({made.template.accelerator}){why}"
            events.append(Record("Normal", "Fallback", message))
            break
    said = {condition.type: condition.reason for condition in before.conditions}
    waits = draft.refused is not None and not draft.no_room
    if waits and said.get("Progressing") != verdict.progressing_reason:
        events.append(Record("Warning", "Unplaceable", verdict.progressing_message))
    if draft.stalled and said.get("Progressing") != Reason.ROLLOUT_STALLED:
        events.append(Record("Warning", "RolloutStalled", verdict.progressing_message))
    return events
