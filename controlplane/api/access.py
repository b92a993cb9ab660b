"""What every route needs: the caller, the right to do the thing, the cached object."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request

from controlplane.api.auth import Authority, Identity
from controlplane.api.cache import CachedDocument, ClusterCache, Document
from controlplane.api.plan_jobs import PlanJobs
from controlplane.api.problem import Problem
from controlplane.kube import KubeClient, Resource
from controlplane.store.database import Database
from operators.runtime import Informer
from telemetry.collectors.scrape import EngineMetrics


@dataclass(frozen=True, slots=True)
class Backend:
    """What the routes stand on; one per process, held by the application."""

    client: KubeClient
    authority: Authority
    cache: ClusterCache
    engine_metrics: EngineMetrics
    plans: PlanJobs
    tuning: Database | None = None  # None: this installation has no database


def backend_of(request: Request) -> Backend:
    backend: Backend = request.app.state.backend
    return backend


async def caller(request: Request) -> Identity:
    """The authenticated caller. Raises Problem 401."""
    return await backend_of(request).authority.identify(request.headers.get("authorization"))


async def require(
    backend: Backend, identity: Identity, verb: str, resource: Resource, namespace: str | None, name: str = ""
) -> None:
    """Raises Problem 403 unless the cluster allows it; the answer never says whether the object exists."""
    if not await backend.authority.allows(identity, verb, resource, namespace, name):
        where = f" in namespace {namespace!r}" if namespace else ""
        raise Problem(403, "Forbidden", f"{identity.user} may not {verb} {resource.plural}{where}.")


async def readable_namespaces(
    backend: Backend, identity: Identity, resource: Resource, namespaces: Sequence[str]
) -> frozenset[str] | None:
    """Of these namespaces, those whose objects the caller may list; None means all."""
    if await backend.authority.allows(identity, "list", resource, None):
        return None
    return frozenset([ns for ns in namespaces if await backend.authority.allows(identity, "list", resource, ns)])


def cached(informer: Informer[Document, CachedDocument], namespace: str, name: str) -> CachedDocument:
    """The cached object. Raises Problem 404."""
    row = informer.store.get(f"{namespace}/{name}" if namespace else name)
    if row is None:
        where = f" in namespace {namespace!r}" if namespace else ""
        raise Problem(404, "NotFound", f"There is no {informer.resource.kind} {name!r}{where}.")
    return row
