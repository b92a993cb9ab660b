"""Separate roles in one status: whole sets of replicas, one verdict, and the replicas of each role. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from controlplane.model.serving import RoleStatus, ServingDeploymentSpec
from operators.serving.draft import Draft
from operators.serving.judgement import Verdict, judge
from operators.serving.reasons import Reason


def verdict_of(drafts: Sequence[Draft]) -> Verdict:
    """One verdict: an endpoint with separate roles answers when each of them does."""
    found = [(draft.snapshot.role, judge(draft)) for draft in drafts]
    verdicts = [verdict for _, verdict in found]
    if len(verdicts) == 1 or verdicts[0] == verdicts[1]:
        return verdicts[0]
    leads = min(verdicts, key=lambda verdict: (verdict.ready == "True", verdict.ready_reason == Reason.ALL_READY))
    moves = min(verdicts, key=_stuck_first)
    progressing: Literal["True", "False"] = moves.progressing
    return Verdict(
        leads.ready,
        leads.ready_reason,
        "; ".join(f"{role.lower()}: {verdict.ready_message}" for role, verdict in found),
        progressing,
        moves.progressing_reason,
        "; ".join(f"{role.lower()}: {verdict.progressing_message}" for role, verdict in found),
    )


def _stuck_first(verdict: Verdict) -> int:
    """What does not move before what moves before what is done."""
    if verdict.progressing == "True":
        return 1
    return 2 if verdict.progressing_reason == Reason.ALL_READY else 0


def sets(spec: ServingDeploymentSpec, drafts: Sequence[Draft], count: Callable[[Draft], int]) -> int:
    """How many of `spec.replicas` a count of replicas makes: with roles whole sets, so that scaling means something."""
    counted = [count(draft) for draft in drafts]
    if spec.roles is None:
        return sum(counted)  # of both revisions where a canary runs
    each = (spec.roles.prefill.replicas, spec.roles.decode.replicas)
    return min(found // size for found, size in zip(counted, each, strict=True))


def existing(draft: Draft) -> int:
    """Replicas that exist once the decision is carried out."""
    return len(draft.kept) + len(draft.made)


def ready(draft: Draft) -> int:
    """Replicas whose engine answers."""
    return sum(replica.ready for replica in draft.kept)


def updated(draft: Draft) -> int:
    """Replicas of the current revision."""
    return sum(replica.template is not None for replica in draft.kept) + len(draft.made)


def revision(draft: Draft) -> str | None:
    """The current revision most replicas have; the first choice's while there is none."""
    revisions = [replica.revision for replica in draft.kept if replica.template is not None]
    revisions += [made.template.revision for made in draft.made]
    if revisions:
        return Counter(revisions).most_common(1)[0][0]
    return draft.snapshot.templates[0].revision if draft.snapshot.templates else None


def accelerator(drafts: Sequence[Draft]) -> str | None:
    """What most replicas run on."""
    found = Counter(replica.accelerator for draft in drafts for replica in draft.kept)
    found.update(made.template.accelerator for draft in drafts for made in draft.made)
    return found.most_common(1)[0][0] or None if found else None


def roles(drafts: Sequence[Draft]) -> list[RoleStatus]:
    """Replicas of each of separate roles; none without."""
    return [
        RoleStatus(
            role=draft.snapshot.role,
            desired=draft.desired,
            replicas=existing(draft),
            ready=ready(draft),
            updated=updated(draft),
            accelerator=accelerator([draft]),
            reason=judge(draft).ready_reason,
        )
        for draft in drafts
        if draft.snapshot.role != "Aggregated"
    ]
