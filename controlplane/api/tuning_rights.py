"""What a caller must be allowed to make trials run: a job's trials are pods in its namespace, started for its caller.

Asked when a job is made and whenever it may start trials again (resume, a larger budget, a copy), so that nobody gets a
pod through a tuning job that the cluster would not give them.
"""

from __future__ import annotations

import asyncio
import logging

from controlplane.api.access import Backend, cached
from controlplane.api.auth import Identity
from controlplane.api.cache import GPU_POOLS, SERVING_DEPLOYMENTS
from controlplane.api.problem import Problem
from controlplane.api.tuning_access import TUNING_JOBS
from controlplane.kube import PODS, KubeError, NotFound, Resource
from controlplane.model.serving import ServingDeployment
from controlplane.model.tuning_job import DeploymentTarget, TuningSpec
from controlplane.tuning_places import check_pools, no_account
from controlplane.tuning_targets import check_for_cluster

log = logging.getLogger(__name__)

SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
_Right = tuple[str, Resource, str]  # verb, resource, name ("": any)


async def require_new_job(backend: Backend, identity: Identity, namespace: str, spec: TuningSpec) -> None:
    """Raises Problem 403 with every right that is missing, InvalidSpec for what no right would make possible."""
    await _require(backend, identity, namespace, [("create", TUNING_JOBS, ""), *_of_trials(spec)])
    check_for_cluster(spec, namespace)
    await _require_places(backend, identity, namespace, spec)


async def require_trials(backend: Backend, identity: Identity, namespace: str, spec: TuningSpec) -> None:
    """For a job that exists and will start trials: raises Problem 403."""
    await _require(backend, identity, namespace, _of_trials(spec))


def _of_trials(spec: TuningSpec) -> list[_Right]:
    rights: list[_Right] = [("create", PODS, ""), ("get", SERVICE_ACCOUNTS, spec.pods.service_account)]
    if isinstance(spec.target, DeploymentTarget):
        rights.append(("get", SERVING_DEPLOYMENTS, spec.target.name))
    return rights


async def _require_places(backend: Backend, identity: Identity, namespace: str, spec: TuningSpec) -> None:
    """Raises UnknownName for a pool, with those that there are for callers who may list them; InvalidSpec for an account,
    which the caller may get. What cannot be read now is told by the trials."""
    pools = backend.cache.pools
    if spec.pods.pools and pools.synced:
        shown = await backend.authority.allows(identity, "list", GPU_POOLS, None)
        check_pools(spec, [row.name for row in pools.store], shown=shown)
    try:
        await backend.client.get(SERVICE_ACCOUNTS, spec.pods.service_account, namespace)
    except NotFound:
        raise no_account(spec, namespace) from None
    except KubeError as error:
        log.warning("service account %s/%s could not be read: %s", namespace, spec.pods.service_account, error)


def target_of(backend: Backend, namespace: str, spec: TuningSpec) -> ServingDeployment | None:
    """The deployment that is tuned, for a caller who may get it; None for other targets. Raises Problem 404."""
    target = spec.target
    if not isinstance(target, DeploymentTarget):
        return None
    found = cached(backend.cache.deployments, namespace, target.name)
    return ServingDeployment.model_validate_json(found.json)


async def _require(backend: Backend, identity: Identity, namespace: str, rights: list[_Right]) -> None:
    answers = await asyncio.gather(
        *(backend.authority.allows(identity, verb, resource, namespace, name) for verb, resource, name in rights)
    )
    missing = [_words(*right) for right, allowed in zip(rights, answers, strict=True) if not allowed]
    if missing:
        raise Problem(
            403,
            "Forbidden",
            f"{identity.user} may not {', '.join(missing)} in namespace {namespace!r}.",
            missing=missing,
            hint="Trials are pods that run for you: ask for a role with these verbs in the namespace.",
        )


def _words(verb: str, resource: Resource, name: str) -> str:
    return f"{verb} {resource.plural}{f' {name!r}' if name else ''}"
