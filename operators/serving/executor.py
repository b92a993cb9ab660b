"""Carries out the actions of a decision: every write past the fence, every answer into the cache."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from controlplane.kube import (
    POD_DISRUPTION_BUDGETS,
    PODS,
    SERVICES,
    AlreadyExists,
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    RequestTooLarge,
)
from controlplane.model import labels
from controlplane.model.actions import Action, Apply, CreatePod, Delete, DeletePod
from operators.runtime import Expectations, Fence, FenceLost, Informer, Key, Writer, key_of, split_key
from operators.serving.owned import BUDGETS, OwnedRow
from operators.serving.owned import SERVICES as SERVICE_PLURAL
from operators.serving.room import Supply
from operators.serving.snapshot import Taken
from operators.workloads.podview import PodView

log = logging.getLogger(__name__)

# Requests of one decision under way at once: enough to hide latency, few enough to leave connections to others.
_PARALLEL = 16
_SERVER_ERROR = 500
# Answers that a repetition will not change while quota, policy and object stay as they are.
_REFUSALS = (Forbidden, Invalid, BadRequest, RequestTooLarge, NotFound)


@dataclass(frozen=True, slots=True)
class Refused:
    """The API server does not let us create a pod of this revision."""

    revision: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """`refused`: definite answers to creations. `taken`: objects whose names are somebody else's. `error`: the first
    other failure, to be tried again."""

    refused: tuple[Refused, ...] = ()
    taken: tuple[Taken, ...] = ()
    error: Exception | None = None

    @property
    def namespace_ends(self) -> bool:
        """The namespace is being deleted: it takes nothing new (NamespaceLifecycle admission)."""
        said = [refusal.message for refusal in self.refused]
        if isinstance(self.error, Forbidden):
            said.append(self.error.message)
        return any("because it is being terminated" in message for message in said)


class Executor:
    """One per controller. `inventory_pod` hears of pods as soon as they exist."""

    def __init__(
        self,
        writer: Writer,
        fence: Fence,
        *,
        pods: Informer[Any, PodView],
        services: Informer[Any, OwnedRow],
        budgets: Informer[Any, OwnedRow],
        routed: Mapping[str, Informer[Any, OwnedRow]] = MappingProxyType({}),
        supply: Supply,
        inventory_pod: Callable[[PodView], None],
        expectations: Expectations,
    ) -> None:
        self._writer = writer
        self._fence = fence
        self._pods = pods
        self._owned = {SERVICE_PLURAL: (SERVICES, services), BUDGETS: (POD_DISRUPTION_BUDGETS, budgets)}
        self._owned |= {plural: (informer.resource, informer) for plural, informer in routed.items()}
        self._supply = supply
        self._inventory_pod = inventory_pod
        self._expectations = expectations
        self._unanswered: dict[Key, set[Key]] = {}

    async def run(self, key: Key, uid: str, namespace: str, actions: Iterable[Action]) -> Outcome:
        """Objects first when a gang's host names are among them, else all at once. Raises FenceLost before anything
        is written; other failures are in the outcome, after everything has been tried."""
        self._fence.check()
        steps: list[Awaitable[None]] = []
        first: list[Awaitable[None]] = []
        refused: list[Refused] = []
        taken: list[Taken] = []
        limit = asyncio.Semaphore(_PARALLEL)
        doomed = [action for action in actions if isinstance(action, DeletePod)]
        self._expectations.expect_deleted(key, [action.uid for action in doomed])
        for action in actions:
            if isinstance(action, DeletePod):
                steps.append(self._delete_pod(key, namespace, action))
            elif isinstance(action, CreatePod):
                steps.append(self._create_pod(key, uid, action, refused))
            elif isinstance(action, Apply):
                headless = action.manifest["spec"].get("clusterIP") == "None"
                (first if headless else steps).append(self._apply(uid, action, taken))
            elif isinstance(action, Delete):
                steps.append(self._delete(uid, namespace, action))
        errors = [*await _gather(first, limit), *await _gather(steps, limit)]
        # In an order that does not hang on which answer came first: two equal outcomes must compare equal.
        in_order = tuple(sorted(taken, key=lambda one: one.message))
        return Outcome(tuple(refused), in_order, errors[0] if errors else None)

    async def find_unanswered(self, key: Key) -> None:
        """Settle what became of creations that had no answer, before anything else is decided for `key`: until then
        their room stays held and no other node may be chosen for them. Raises KubeError when that stays unknown."""
        for pod_key in list(self._unanswered.get(key, ())):
            await self._find(key, pod_key)

    def forget(self, key: Key) -> None:
        """The deployment is gone."""
        self._unanswered.pop(key, None)

    async def _create_pod(self, key: Key, uid: str, action: CreatePod, refused: list[Refused]) -> None:
        metadata = action.manifest["metadata"]
        revision, pod_key = metadata["labels"][labels.REVISION], key_of(metadata["namespace"], metadata["name"])
        try:
            with self._pods.own_write(pod_key):
                body = await self._writer.create(PODS, action.manifest)
                row = self._pods.absorb(body)
        except AlreadyExists:
            # Our own pod, when an earlier create was not answered or the cache is behind.
            self._unanswered.setdefault(key, set()).add(pod_key)
            row = await self._find(key, pod_key)
            if row is not None and row.owner_uid != uid:
                refused.append(Refused(revision, f"a pod {row.name} that is not ours exists; delete or rename it"))
        except _REFUSALS as error:
            self._supply.release(pod_key)
            refused.append(Refused(revision, f"pod {metadata['name']}: {error.message}"))
        except FenceLost:
            self._supply.release(pod_key)  # the fence is looked at before the bytes leave
            raise
        except BaseException as error:  # being cancelled leaves the answer unheard, too
            if isinstance(error, KubeError) and 0 < error.status < _SERVER_ERROR:
                self._supply.release(pod_key)
            else:
                # No answer, or one that does not say whether the pod was stored.
                self._unanswered.setdefault(key, set()).add(pod_key)
            raise
        else:
            self._seen(row)

    async def _find(self, key: Key, pod_key: Key) -> PodView | None:
        """The pod as the API server has it now; None when there is none."""
        namespace, name = split_key(pod_key)
        row: PodView | None = None
        with contextlib.suppress(NotFound):
            row = self._pods.absorb(await self._writer.client.get(PODS, name, namespace))
        self._supply.release(pod_key)
        self._seen(row)
        left = self._unanswered.get(key, set())  # the deployment may have gone meanwhile
        left.discard(pod_key)
        if not left:
            self._unanswered.pop(key, None)
        return row

    def _seen(self, row: PodView | None) -> None:
        if row is not None:
            self._inventory_pod(row)

    async def _delete_pod(self, key: Key, namespace: str, action: DeletePod) -> None:
        try:
            found = await self._writer.delete(
                PODS, action.name, namespace, uid=action.uid, grace_period_s=action.grace_s
            )
        except Conflict:
            found = False  # another pod has the name by now
        except Exception:
            self._expectations.deleted(key, action.uid)
            raise
        if not found:
            self._expectations.deleted(key, action.uid)
        log.info("%s: pod %s leaves: %s", key, action.name, action.why)

    async def _apply(self, uid: str, action: Apply, taken: list[Taken]) -> None:
        resource, informer = self._owned[action.resource]
        metadata = action.manifest["metadata"]
        what = f"{resource.kind} {metadata['namespace']}/{metadata['name']}"
        key = key_of(metadata["namespace"], metadata["name"])
        known = informer.store.get(key)
        if known is not None and known.owner_uid not in ("", uid):
            # Our predecessor's, most likely, and about to be collected; its end is seen and wakes the deployment.
            taken.append(Taken(action.resource, f"{what} belongs to another object (uid {known.owner_uid})"))
            return
        try:
            # Without force for one we have never seen: somebody else's object of that name must not be taken over.
            with informer.own_write(key):
                body = await self._writer.apply(resource, action.manifest, force=known is not None)
                informer.absorb(body)
        except Conflict as error:
            if known is not None:
                raise
            log.info("%s is not ours: %s", what, error.message)
            taken.append(Taken(action.resource, f"{what} exists and is not ours; delete it, or rename the deployment"))

    async def _delete(self, uid: str, namespace: str, action: Delete) -> None:
        resource, informer = self._owned[action.resource]
        known = informer.store.get(key_of(namespace, action.name))
        if known is not None and known.owner_uid == uid:
            await self._writer.delete(resource, action.name, namespace, uid=known.uid)


async def _gather(steps: list[Awaitable[None]], limit: asyncio.Semaphore) -> list[Exception]:
    """Run all, whatever becomes of each; the errors in order."""
    if len(steps) == 1:
        try:
            await steps[0]
        except Exception as error:
            return [error]
        return []

    async def one(step: Awaitable[None]) -> None:
        async with limit:
            await step

    results = await asyncio.gather(*(one(step) for step in steps), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Exception):
            raise result
    return [result for result in results if isinstance(result, Exception)]
