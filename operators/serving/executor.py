"""Carries out the actions of a decision: every write past the fence, every answer into the cache."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
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
from operators.runtime import Expectations, Fence, Informer, Key, Writer, key_of
from operators.serving.owned import BUDGETS, OwnedRow
from operators.serving.owned import SERVICES as SERVICE_PLURAL
from operators.serving.room import Supply
from operators.workloads.podview import PodView

log = logging.getLogger(__name__)

# Requests of one decision under way at once: enough to hide latency, few enough to leave connections to others.
_PARALLEL = 16
# Answers that a repetition will not change while quota, policy and object stay as they are.
_REFUSALS = (Forbidden, Invalid, BadRequest, RequestTooLarge, NotFound)


@dataclass(frozen=True, slots=True)
class Refused:
    """The API server does not let us create a pod of this revision."""

    revision: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """`refused`: definite answers to creations. `error`: the first other failure, to be tried again."""

    refused: tuple[Refused, ...] = ()
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
        supply: Supply,
        inventory_pod: Callable[[PodView], None],
        expectations: Expectations,
    ) -> None:
        self._writer = writer
        self._fence = fence
        self._pods = pods
        self._owned = {SERVICE_PLURAL: (SERVICES, services), BUDGETS: (POD_DISRUPTION_BUDGETS, budgets)}
        self._supply = supply
        self._inventory_pod = inventory_pod
        self._expectations = expectations

    async def run(self, key: Key, uid: str, namespace: str, actions: Iterable[Action]) -> Outcome:
        """Objects first when a gang's host names are among them, else all at once. Raises FenceLost before anything
        is written; other failures are in the outcome, after everything has been tried."""
        self._fence.check()
        steps: list[Awaitable[None]] = []
        first: list[Awaitable[None]] = []
        refused: list[Refused] = []
        limit = asyncio.Semaphore(_PARALLEL)
        doomed = [action for action in actions if isinstance(action, DeletePod)]
        self._expectations.expect_deleted(key, [action.uid for action in doomed])
        for action in actions:
            if isinstance(action, DeletePod):
                steps.append(self._delete_pod(key, namespace, action))
            elif isinstance(action, CreatePod):
                steps.append(self._create_pod(uid, action, refused))
            elif isinstance(action, Apply):
                headless = action.manifest["spec"].get("clusterIP") == "None"
                (first if headless else steps).append(self._apply(action))
            elif isinstance(action, Delete):
                steps.append(self._delete(namespace, action))
        errors = [*await _gather(first, limit), *await _gather(steps, limit)]
        return Outcome(tuple(refused), errors[0] if errors else None)

    async def _create_pod(self, uid: str, action: CreatePod, refused: list[Refused]) -> None:
        metadata = action.manifest["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        try:
            body = await self._writer.create(PODS, action.manifest)
        except AlreadyExists:
            await self._adopt(uid, namespace, name, metadata["labels"][labels.REVISION], refused)
            return
        except _REFUSALS as error:
            self._supply.release(key_of(namespace, name))
            refused.append(Refused(metadata["labels"][labels.REVISION], f"pod {name}: {error.message}"))
            return
        except KubeError as error:
            if error.status:  # an answer: nothing was created. Without one the pod may exist, and its room stays held
                self._supply.release(key_of(namespace, name))
            raise
        self._seen(self._pods.absorb(body))

    async def _adopt(self, uid: str, namespace: str, name: str, revision: str, refused: list[Refused]) -> None:
        """The name is taken: by our own pod, when an earlier create was not answered or the cache is behind."""
        self._supply.release(key_of(namespace, name))
        row = self._pods.absorb(await self._writer.client.get(PODS, name, namespace))
        if row is not None and row.owner_uid == uid:
            self._seen(row)
            return
        refused.append(Refused(revision, f"a pod {name} that is not ours exists; delete or rename it"))

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

    async def _apply(self, action: Apply) -> None:
        resource, informer = self._owned[action.resource]
        metadata = action.manifest["metadata"]
        known = informer.store.get(key_of(metadata["namespace"], metadata["name"]))
        # Without force for one we have never seen: somebody else's object of that name must not be taken over.
        informer.absorb(await self._writer.apply(resource, action.manifest, force=known is not None))

    async def _delete(self, namespace: str, action: Delete) -> None:
        resource, informer = self._owned[action.resource]
        known = informer.store.get(key_of(namespace, action.name))
        if known is not None:
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
