"""A deployment with separate roles as one decision for each role, and what they remember as one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from controlplane.model.roles import SPLIT_ROLES, ReplicaRole
from operators.serving.snapshot import BackOff, Notes, Snapshot


def parts(snapshot: Snapshot) -> list[Snapshot]:
    """One snapshot for each role; the snapshot itself when roles are not separate. Pods without a role, of a spec
    before this one, leave as the decode replicas come: these are what answers clients."""
    if snapshot.deployment.spec.roles is None:
        return [snapshot]
    return [_part(snapshot, role) for role in SPLIT_ROLES]


def _part(snapshot: Snapshot, role: ReplicaRole) -> Snapshot:
    deployment = snapshot.deployment
    others = [other for other in SPLIT_ROLES if other != role]
    takes_rest = role == "Decode"
    return replace(
        snapshot,
        role=role,
        deployment=deployment.model_copy(update={"spec": deployment.spec.of_role(role)}),
        templates=tuple(template for template in snapshot.templates if template.role == role),
        pods=[pod for pod in snapshot.pods if pod.role == role or (takes_rest and pod.role not in others)],
        notes=replace(snapshot.notes, better_since_s=snapshot.notes.better_by_role.get(role)),
    )


def joined(before: Notes, told: Sequence[tuple[ReplicaRole, Notes]]) -> Notes:
    """What the decisions of all roles leave for the next one."""
    if len(told) == 1:
        return told[0][1]
    back_off: dict[str, BackOff] = {}
    for revision in {key: None for notes in (before, *(notes for _, notes in told)) for key in notes.back_off}:
        was = before.back_off.get(revision)
        now = [notes.back_off.get(revision) for _, notes in told]
        # A revision belongs to one role: what that one changed counts, the others have left it as it was.
        changed = [note for note in now if note != was]
        note = changed[0] if changed else was
        if note is not None:
            back_off[revision] = note
    avoid = {node: until_s for _, notes in told for node, until_s in notes.avoid.items()}
    since = {role: notes.better_since_s for role, notes in told if notes.better_since_s is not None}
    return Notes(back_off, avoid, None, since)
