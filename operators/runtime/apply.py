"""`Writer`: every change a controller makes to the cluster goes through one of these, past the fence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from controlplane.kube import MERGE_PATCH, KubeClient, NotFound, Resource
from operators.runtime.conditions import status_changed

_FIELD_MANAGER_LIMIT_CHARS = 128  # apimachinery validation.FieldManagerMaxLength


class Writer:
    """One per controller: one field manager, one fence.

    `fence` raises when we may no longer write (lost lease). It runs immediately before the bytes of each attempt go
    out, so a leader that was frozen between deciding and writing does not write.
    """

    def __init__(self, client: KubeClient, field_manager: str, fence: Callable[[], None] | None = None) -> None:
        if not 0 < len(field_manager) <= _FIELD_MANAGER_LIMIT_CHARS:
            raise ValueError(
                f"field manager {field_manager!r}: 1 to {_FIELD_MANAGER_LIMIT_CHARS} characters are allowed"
            )
        self.client = client
        self.field_manager = field_manager
        self.fence = fence
        self.writes_total = 0

    async def apply(self, resource: Resource, obj: Mapping[str, Any], **options: Any) -> bytes:
        """Server-side apply of exactly the fields in `obj`, with force: what we declare is ours.

        `obj` needs metadata.name (and namespace); apiVersion and kind are filled in. Raises Invalid, Forbidden.
        """
        namespace, name = _address(resource, obj)
        return await self._count(
            self.client.apply(
                resource,
                {**obj, "apiVersion": resource.api_version, "kind": resource.kind},
                name,
                namespace,
                field_manager=self.field_manager,
                before_send=self.fence,
                **options,
            )
        )

    async def create(self, resource: Resource, obj: Mapping[str, Any], **options: Any) -> bytes:
        """POST: about 10 % cheaper than apply for an object that never changes. Raises AlreadyExists."""
        namespace, _ = _address(resource, obj)
        body = {**obj, "apiVersion": resource.api_version, "kind": resource.kind}
        path = resource.path(namespace)
        query = {"fieldManager": self.field_manager}
        return await self._count(
            self.client.request("POST", path, query=query, body=body, before_send=self.fence, **options)
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str,
        grace_period_s: int | None = None,
        propagation: str = "Background",
    ) -> bool:
        """Delete this very object. False when it, or its uid, is no longer there; a successor is spared."""
        try:
            await self._count(
                self.client.delete(
                    resource,
                    name,
                    namespace,
                    uid=uid,
                    grace_period_s=grace_period_s,
                    propagation=propagation,
                    before_send=self.fence,
                )
            )
        except NotFound:
            return False
        return True

    async def apply_status(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        status: Mapping[str, Any],
        *,
        current: Mapping[str, Any] | None,
    ) -> bytes | None:
        """Apply on `/status`, or None without a request when `current` already says the same.

        Give the status whole every time: fields left out are dropped from the object.
        """
        if not status_changed(current, status):
            return None
        metadata: dict[str, Any] = {"name": name}
        if namespace is not None:
            metadata["namespace"] = namespace
        return await self.apply(
            resource, {"metadata": metadata, "status": msgspec.to_builtins(status)}, subresource="status"
        )

    async def merge(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        patch: Mapping[str, Any],
        *,
        resource_version: str | None = None,
        subresource: str | None = None,
    ) -> bytes:
        """Merge patch. With `resource_version`, raises Conflict when the object has changed since."""
        body: dict[str, Any] = dict(patch)
        if resource_version is not None:
            body["metadata"] = {**body.get("metadata", {}), "resourceVersion": resource_version}
        return await self._count(
            self.client.patch(
                resource,
                body,
                name,
                namespace,
                subresource=subresource,
                content_type=MERGE_PATCH,
                query={"fieldManager": self.field_manager},
                before_send=self.fence,
            )
        )

    async def set_finalizers(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        finalizers: Sequence[str],
        *,
        resource_version: str,
    ) -> bytes:
        """Replace the list (see `with_finalizer`). Raises Conflict: somebody may have added theirs meanwhile."""
        return await self.merge(
            resource,
            name,
            namespace,
            {"metadata": {"finalizers": list(finalizers)}},
            resource_version=resource_version,
        )

    async def _count(self, request: Awaitable[bytes]) -> bytes:
        self.writes_total += 1
        return await request


def _address(resource: Resource, obj: Mapping[str, Any]) -> tuple[str | None, str]:
    metadata = obj.get("metadata", {})
    name = metadata.get("name")
    if not name:
        raise ValueError(f"{resource.kind} without metadata.name cannot be written")
    namespace = metadata.get("namespace")
    if resource.namespaced and not namespace:
        raise ValueError(f"{resource.kind} {name!r} without metadata.namespace cannot be written")
    return namespace, name
