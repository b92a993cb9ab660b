"""`KubeClient`: the verbs of the Kubernetes API, on top of `RawClient`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from controlplane.kube.connection import HttpConnection
from controlplane.kube.errors import Timeout, Unreachable, error_from
from controlplane.kube.raw import APPLY_PATCH, MERGE_PATCH, Body, Call, Query, RawClient
from controlplane.kube.resource import Resource
from controlplane.kube.watch import WatchStream


class KubeClient(RawClient):
    """The door. Every method takes the options of `request` (`token`, `timeout_s`, `retry`, `before_send`) as well."""

    async def get(self, resource: Resource, name: str, namespace: str | None = None, **options: Any) -> bytes:
        """One object. Raises NotFound."""
        return await self.request("GET", resource.path(namespace, name), **options)

    async def list_page(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int | None = None,
        continue_token: str | None = None,
        resource_version: str | None = None,
        **options: Any,
    ) -> bytes:
        """One page of a collection; `metadata.continue` of the answer leads to the next. Raises Gone."""
        query: Query = {
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "limit": limit,
            "continue": continue_token,
            "resourceVersion": resource_version,
        }
        return await self.request("GET", resource.path(namespace), query=query, **options)

    async def create(self, resource: Resource, body: Body, namespace: str | None = None, **options: Any) -> bytes:
        """POST. Never repeated after a broken connection: the object may exist. Raises AlreadyExists, Invalid."""
        return await self.request("POST", resource.path(namespace), body=body, **options)

    async def replace(
        self,
        resource: Resource,
        body: Body,
        name: str,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
        **options: Any,
    ) -> bytes:
        """PUT of a whole object; with a resourceVersion in it, raises Conflict when somebody else was faster."""
        return await self.request("PUT", resource.path(namespace, name, subresource), body=body, **options)

    async def patch(
        self,
        resource: Resource,
        body: Body | list[Any],
        name: str,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
        content_type: str = MERGE_PATCH,
        query: Query | None = None,
        **options: Any,
    ) -> bytes:
        """PATCH; `content_type` says which kind. A merge patch with metadata.resourceVersion can raise Conflict."""
        path = resource.path(namespace, name, subresource)
        return await self.request("PATCH", path, body=body, content_type=content_type, query=query, **options)

    async def apply(
        self,
        resource: Resource,
        body: Body,
        name: str,
        namespace: str | None = None,
        *,
        field_manager: str,
        force: bool = True,
        subresource: str | None = None,
        **options: Any,
    ) -> bytes:
        """Server-side apply: the fields in `body` become ours, those we applied earlier and left out go."""
        return await self.patch(
            resource,
            body,
            name,
            namespace,
            subresource=subresource,
            content_type=APPLY_PATCH,
            query={"fieldManager": field_manager, "force": force},
            **options,
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_period_s: int | None = None,
        propagation: str | None = None,
        **options: Any,
    ) -> bytes:
        """DELETE. With `uid`, a successor of the same name is spared (Conflict). Raises NotFound."""
        preconditions: dict[str, str] = {}
        if uid is not None:
            preconditions["uid"] = uid
        if resource_version is not None:
            preconditions["resourceVersion"] = resource_version
        body: dict[str, Any] = {}
        if preconditions:
            body["preconditions"] = preconditions
        if grace_period_s is not None:
            body["gracePeriodSeconds"] = grace_period_s
        if propagation is not None:
            body["propagationPolicy"] = propagation
        return await self.request("DELETE", resource.path(namespace, name), body=body or None, **options)

    @asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        resource_version: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        server_timeout_s: int | None = None,
        allow_bookmarks: bool = True,
        token: str | None = None,
        connect_timeout_s: float | None = None,
    ) -> AsyncIterator[WatchStream]:
        """An open watch on its own connection; iterate it for batches of event lines. Raises Gone and the rest."""
        query: Query = {
            "watch": True,
            "resourceVersion": resource_version,
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "timeoutSeconds": server_timeout_s,
            "allowWatchBookmarks": allow_bookmarks,
        }
        path = resource.path(namespace)
        what = f"WATCH {path}"
        call = Call("GET", self._target(path, query), what, token=token)
        limit_s = connect_timeout_s or self.timeout_s
        connection: HttpConnection | None = None
        try:
            started_s = time.perf_counter()
            code = "<error>"
            try:
                async with asyncio.timeout(limit_s):
                    connection = await self._pool.dedicated()
                    head = await self._head(call)
                    status = await connection.open_stream(head)
                    code = str(status)
                    if status != 200:
                        if status == 401 and token is None:
                            await self.access.rejected()
                        rest = await connection.read_rest()
                        raise error_from(status, rest, retry_after_s=connection.retry_after_s, what=what)
            except TimeoutError as error:
                raise Timeout(0, "Timeout", f"no answer within {limit_s:g} s", what=what) from error
            except Unreachable as error:
                error.what = what
                raise
            finally:
                self._observe("WATCH", code, started_s)
            yield WatchStream(connection, self._max_watch_line_bytes)
        finally:
            if connection is not None:
                self._pool.discard(connection)
