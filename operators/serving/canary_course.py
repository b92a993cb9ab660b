"""Which revisions of a deployment live now: one, or a stable one with a canary beside it. Pure.

Only what stands in the stored status counts: a phase is written first and acted upon by the next decision, so that an
operator that dies in between, or another one that takes over, goes on where the status is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from controlplane.model.canary import ACTIVE, Canary, CanaryStatus
from controlplane.model.serving import ServingDeployment
from operators.serving.replicas import gather, trouble
from operators.serving.snapshot import PlanSettings, Snapshot

_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Course:
    """`parts`: what is decided apart. `whole`: the deployment as its objects and status see it. `canary` None: no
    change is tried now, what the spec says is rolled out. `begins`: it was not there before. `stored`: its status."""

    parts: tuple[Snapshot, ...]
    whole: Snapshot
    canary: Canary | None = None
    stored: CanaryStatus | None = None
    candidate: str = ""
    revision: str = ""
    begins: bool = False
    wanted: int = 0

    @property
    def known(self) -> frozenset[str]:
        """Revisions that pods of the stable spec may have."""
        return frozenset() if self.whole.stable is None else self.whole.stable.known

    @property
    def held(self) -> bool:
        """The stable revision is what is rolled out, whatever the spec says."""
        return self.canary is not None


def course(snapshot: Snapshot, settings: PlanSettings, now_s: float) -> Course:
    """The course that this decision takes."""
    spec = snapshot.deployment.spec
    canary, stable = spec.rollout.canary, snapshot.stable
    plain = Course((snapshot,), snapshot)
    if canary is None or stable is None or spec.suspend or not spec.replicas or snapshot.errors:
        return plain
    if stable.errors:
        return plain if not _replaced(snapshot) else _unreadable(snapshot)
    rendered = {template.revision for template in stable.templates}
    new = tuple(template for template in snapshot.templates if template.revision not in rendered)
    if not new:
        return plain
    candidate = _name([template.asked for template in new], canary)
    stored = snapshot.deployment.status.canary
    if stored is not None and stored.candidate != candidate:
        stored = None
    if stored is not None and stored.phase == "Promoted":
        return plain
    held = _held(snapshot)
    revision = new[0].revision
    if stored is not None and stored.phase in ACTIVE and stored.revision != revision:
        stored = None  # another version of the operator renders the change as other pods: what was watched is not they
    begins = stored is None
    if begins and not _serves(held, stable.known, settings, now_s):
        return plain  # nothing answers that a change could be compared with, or that a rollback would go back to
    if stored is not None and stored.phase not in ACTIVE:
        return Course((held,), held, canary, stored, candidate, revision)
    surge, away = spec.rollout.max_surge, spec.rollout.max_unavailable
    wanted = min(canary.replicas, held.deployment.spec.replicas, surge + away)
    kept = held.deployment.spec.replicas - max(0, wanted - surge)
    if kept < 1:
        wanted, kept = 0, held.deployment.spec.replicas  # no room to run both: said, not done
    ours = {template.revision for template in new}
    # What the canary takes of the promises is not there for a rollout of the stable revision in another rendering: its
    # replicas stand still until the verdict, unless there is room for both.
    left = {"max_surge": max(0, surge - wanted), "max_unavailable": max(0, away - max(0, wanted - surge))}
    if begins:
        waits = replace(held, deployment=_sized(held, held.deployment.spec.replicas, **left))
        return Course((waits,), held, canary, None, candidate, revision, begins)
    stable_part = replace(
        held,
        part="Stable",
        deployment=_sized(held, kept, **left),
        pods=[pod for pod in snapshot.pods if pod.revision not in ours],
    )
    canary_part = replace(
        snapshot,
        part="Canary",
        templates=new,
        shares={},
        deployment=_sized(snapshot, wanted),
        pods=[pod for pod in snapshot.pods if pod.revision in ours],
    )
    return Course((stable_part, canary_part), held, canary, stored, candidate, revision, False, wanted)


def _name(asked: Sequence[str], canary: Canary) -> str:
    """Of the change and of how it is judged: another one is tried anew."""
    text = "\n".join([*sorted(asked), canary.model_dump_json()])
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _held(snapshot: Snapshot) -> Snapshot:
    """The deployment as if its spec still were the stable one."""
    assert snapshot.stable is not None
    deployment = snapshot.deployment.model_copy(update={"spec": snapshot.stable.spec})
    return replace(snapshot, deployment=deployment, templates=snapshot.stable.templates, shares={})


def _sized(snapshot: Snapshot, replicas: int, **promises: int) -> ServingDeployment:
    deployment = snapshot.deployment
    # Nothing moves on its own while two revisions are compared.
    rollout = deployment.spec.rollout.model_copy(update={"prefer_better": "Never", **promises})
    spec = deployment.spec.model_copy(update={"replicas": replicas, "rollout": rollout})
    return deployment.model_copy(update={"spec": spec})


def _serves(held: Snapshot, known: frozenset[str], settings: PlanSettings, now_s: float) -> bool:
    """Whether a stable replica answers, or did until a moment ago."""
    return any(
        replica.ready or now_s - replica.unready_since_s < settings.unready_grace_s
        for replica in gather(held, settings, now_s).replicas
        if replica.revision in known and not replica.leaving and trouble(replica) is None
    )


def _replaced(snapshot: Snapshot) -> bool:
    """Whether pods run that the spec does not render."""
    current = {template.revision for template in snapshot.templates}
    uid = snapshot.deployment.metadata.uid
    return any(pod.owner_uid == uid and pod.revision not in current for pod in snapshot.pods)


def _unreadable(snapshot: Snapshot) -> Course:
    """What runs goes on, and the status says why nothing else can be done."""
    assert snapshot.stable is not None
    shown = replace(snapshot, errors=snapshot.stable.errors, templates=())
    return Course((shown,), shown)
