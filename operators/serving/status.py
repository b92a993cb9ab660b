"""The status of a deployment, from a finished draft: counts, verdicts, two conditions, one dominant reason. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from controlplane.model import labels
from controlplane.model.actions import Record
from controlplane.model.canary import CanaryStatus
from controlplane.model.resource import Condition
from controlplane.model.serving import Endpoint, PoolReplicas, ServingDeployment, ServingDeploymentStatus
from operators.runtime import status_changed
from operators.serving import canary_status, judgement, role_status
from operators.serving.canary_course import Course
from operators.serving.draft import Draft
from operators.serving.reasons import Reason
from operators.serving.render import endpoint
from operators.serving.snapshot import Snapshot
from operators.serving.verdicts import verdicts

_MESSAGE_MAX = 2_000
_POOLS_MAX = 64


def build(
    found: Course, drafts: Sequence[Draft], canary: CanaryStatus | None
) -> tuple[dict[str, Any] | None, list[Record]]:
    """The status as JSON, and the events that its change is worth. The caller compares it with what is stored.

    `drafts`: one, or one for each of separate roles, or the stable revision's and its canary's."""
    snapshot = found.whole
    deployment, before = snapshot.deployment, snapshot.deployment.status
    verdict = canary_status.verdict_of(drafts, canary if found.held else None)
    ready, updated, total = (
        role_status.sets(deployment.spec, counted, count)
        for counted, count in (
            (drafts, role_status.ready),
            ([draft for draft in drafts if draft.snapshot.part != "Stable"], role_status.updated),
            (drafts, role_status.existing),
        )
    )
    held = [draft for draft in drafts if draft.snapshot.part != "Canary"]
    revisions = [said for draft in held if (said := role_status.revision(draft)) is not None]
    revision = "-".join(revisions) or None
    generation = deployment.metadata.generation
    now = datetime.fromtimestamp(int(drafts[0].now_s), UTC)
    status = ServingDeploymentStatus(
        observed_generation=generation,
        replicas=total,
        ready_replicas=ready,
        # With errors nobody knows what the current revision is; what was last said stays.
        updated_replicas=before.updated_replicas if snapshot.errors else updated,
        selector=f"{labels.DEPLOYMENT}={deployment.metadata.name},{labels.LEADER}=true",
        revision=before.revision if snapshot.errors else revision,
        accelerator=role_status.accelerator(drafts),
        reason=verdict.ready_reason,
        # With a canary its choices: they are those of the spec.
        choices=before.choices
        if snapshot.errors
        else [told for draft in drafts if draft.snapshot.part != "Stable" for told in verdicts(draft)],
        pools=_pools(drafts),
        endpoints=before.endpoints if snapshot.errors else [_endpoint(deployment, drafts)],
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
            *_planned(snapshot, before, generation, now),
        ],
        plan=None if snapshot.outlook is None else snapshot.outlook.plan,
        roles=role_status.roles(drafts),
        canary=canary,
        stable=snapshot.record if _done(found, drafts) else before.stable,
        last_rollout_time=_rolled_out(found, drafts, revision, now),
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True), _events(drafts, verdict, before)


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


def _planned(snapshot: Snapshot, before: ServingDeploymentStatus, generation: int, now: datetime) -> list[Condition]:
    """The Planned condition of an auto deployment."""
    outlook = snapshot.outlook
    if outlook is None:
        return []
    return [_condition(before, "Planned", outlook.status, outlook.reason.value, outlook.message, generation, now)]


def _endpoint(deployment: ServingDeployment, drafts: Sequence[Draft]) -> Endpoint:
    kept = (replica.template for draft in drafts for replica in draft.kept if replica.template is not None)
    made = (made.template for draft in drafts for made in draft.made)
    template = next(kept, None) or next(made, None)
    return endpoint(deployment, drafts[0].settings.render, template)


def _pools(drafts: Sequence[Draft]) -> list[PoolReplicas]:
    placed: Counter[tuple[str, str]] = Counter()
    ready: Counter[tuple[str, str]] = Counter()
    for draft in drafts:
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


def _done(found: Course, drafts: Sequence[Draft]) -> bool:
    """Whether what the spec says is all there is, and answers."""
    if found.held or found.whole.errors:
        return False
    return all(
        role_status.updated(draft) >= role_status.existing(draft) and role_status.ready(draft) >= max(1, draft.desired)
        for draft in drafts
    )


def _rolled_out(found: Course, drafts: Sequence[Draft], revision: str | None, now: datetime) -> datetime | None:
    """When the current revision became the only one, and answered."""
    before = found.whole.deployment.status
    if not _done(found, drafts):
        return before.last_rollout_time
    was_done = before.revision == revision and before.last_rollout_time is not None
    return before.last_rollout_time if was_done else now


def _events(drafts: Sequence[Draft], verdict: judgement.Verdict, before: ServingDeploymentStatus) -> list[Record]:
    """Only what a person should hear of, and only when it begins."""
    events = [Record("Normal", "Fallback", why) for draft in drafts if (why := _fallback(draft)) is not None]
    said = {condition.type: condition.reason for condition in before.conditions}
    waits = any(draft.refused is not None and not draft.no_room for draft in drafts)
    if waits and said.get("Progressing") != verdict.progressing_reason:
        events.append(Record("Warning", "Unplaceable", verdict.progressing_message))
    if any(draft.stalled for draft in drafts) and said.get("Progressing") != Reason.ROLLOUT_STALLED:
        events.append(Record("Warning", "RolloutStalled", verdict.progressing_message))
    return events


def _fallback(draft: Draft) -> str | None:
    """The first new replica that did not get the first choice."""
    # A planned mix has several first choices.
    first = draft.snapshot.shares or {0: 1}
    made = next((made for made in draft.made if made.template.choice_index not in first), None)
    if made is None or draft.moving:
        return None
    refused = draft.refusals.get(0)
    why = f": {refused.message}" if refused is not None else ""
    return f"replica placed on choice {made.template.choice_index} ({made.template.accelerator}){why}"
