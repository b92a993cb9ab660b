"""What a deployment has beside its pods: Services, budget and routing, as far as they are not what they should be. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from controlplane.model.actions import Action, Apply, Delete
from operators.serving.draft import Draft
from operators.serving.names import gang_service_name
from operators.serving.owned import BUDGETS, SERVICES, owner_of, shape_of
from operators.serving.render import headless_service, pod_disruption_budget, service
from operators.serving.routers import ROUTED, routing_objects
from operators.serving.snapshot import Snapshot


def objects(snapshot: Snapshot, drafts: Sequence[Draft], serve: str | None = None) -> list[Action]:
    """Services, budget and routing, where what the API server has is not what we would write. `serve`: the revision
    that clients are sent to alone."""
    if snapshot.errors:
        return _unpinned(snapshot)
    deployment = snapshot.deployment
    gang_pods = _gang_pods(drafts)
    counted = _pods(drafts) if deployment.spec.roles is not None else gang_pods
    wanted = [(SERVICES, _service(snapshot, serve)), (BUDGETS, pod_disruption_budget(deployment, counted))]
    headless = gang_service_name(deployment.metadata.name)
    out: list[Action] = []
    if gang_pods is not None:
        wanted.insert(0, (SERVICES, headless_service(deployment)))
    else:
        # Its name may be somebody else's, or our predecessor's: only what we own is ours to delete.
        shape = snapshot.owned.get((SERVICES, headless))
        ours = shape is not None and owner_of(shape) == deployment.metadata.uid
        if ours and not any(p.rank for p in snapshot.pods):
            out.append(Delete(SERVICES, headless))
    if snapshot.templates:
        settings, port = snapshot.templates[0].settings, snapshot.templates[0].engine_facts.port
        wanted += routing_objects(deployment, settings.routers, port)
    named = {(resource, manifest["metadata"]["name"]) for resource, manifest in wanted}
    for (resource, name), shape in sorted(snapshot.owned.items(), key=lambda item: item[0]):
        if resource in ROUTED and (resource, name) not in named and owner_of(shape) == deployment.metadata.uid:
            out.append(Delete(resource, name))
    for resource, manifest in wanted:
        if snapshot.owned.get((resource, manifest["metadata"]["name"])) != shape_of(resource, manifest):
            out.append(Apply(resource, manifest))
    return out


def _unpinned(snapshot: Snapshot) -> list[Action]:
    """Of a spec with errors nothing is written, but a Service that sends to one of two revisions alone, in whose turn the
    errors came: nobody turns it any more, and that revision may go."""
    deployment, status = snapshot.deployment, snapshot.deployment.status
    held, plain = snapshot.owned.get((SERVICES, deployment.metadata.name)), service(deployment)
    tried = None if status.canary is None else status.canary.revision
    revisions = {status.revision, tried, *(pod.revision for pod in snapshot.pods)} - {None}
    turns = [shape_of(SERVICES, service(deployment, revision=revision)) for revision in revisions]
    return [Apply(SERVICES, plain)] if held in turns and held != shape_of(SERVICES, plain) else []


def _service(snapshot: Snapshot, serve: str | None) -> dict[str, Any]:
    """Clients who reach the replicas themselves go on doing so until a new router answers, which it may never do. Not
    with separate roles, neither of which answers alone."""
    deployment = snapshot.deployment
    if not snapshot.router_ready and deployment.spec.roles is None:
        past_router = service(deployment, past_router=True)
        if snapshot.owned.get((SERVICES, deployment.metadata.name)) == shape_of(SERVICES, past_router):
            return past_router
    return service(deployment, revision=serve)


def _gang_pods(drafts: Sequence[Draft]) -> int | None:
    """Pods that the placed replicas should have, when a replica of several pods is among them."""
    return _pods(drafts) if any(size > 1 for draft in drafts for size in _sizes(draft)) else None


def _pods(drafts: Sequence[Draft]) -> int:
    return sum(size for draft in drafts for size in _sizes(draft))


def _sizes(draft: Draft) -> list[int]:
    sizes = [made.template.pods for made in draft.made]
    kept = draft.kept
    return sizes + [replica.template.pods if replica.template is not None else len(replica.alive) for replica in kept]
