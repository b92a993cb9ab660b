"""A ServingDeployment on the cluster of a kubeconfig, read and patched as that user."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from controlplane.kube import MERGE_PATCH, Conflict, KubeClient, KubeError, Resource, load_access
from controlplane.model.errors import Refused
from controlplane.model.resource import GROUP, VERSION

if TYPE_CHECKING:
    from controlplane.tuning_apply import Document, Patch

_DEPLOYMENTS = Resource(GROUP, VERSION, "servingdeployments", "ServingDeployment")
_AGENT = "trimtab-tune"


class ClusterPlace:
    """`kubeconfig` None: the usual places. What the cluster says no to is Refused with its words."""

    def __init__(self, name: str, namespace: str, kubeconfig: str | None) -> None:
        self._name, self._namespace, self._kubeconfig = name, namespace, kubeconfig

    def read(self) -> Document:
        found: dict[str, Any] = json.loads(
            self._call(lambda client: client.get(_DEPLOYMENTS, self._name, self._namespace), "not read")
        )
        return found

    def write(self, patch: Patch, *, dry_run: bool) -> None:
        query: dict[str, Any] = {"fieldManager": _AGENT} | ({"dryRun": "All"} if dry_run else {})
        self._call(
            lambda client: client.patch(
                _DEPLOYMENTS, patch.body, self._name, self._namespace, content_type=MERGE_PATCH, query=query
            ),
            "not written",
        )

    def _call(self, act: Callable[[KubeClient], Awaitable[bytes]], what: str) -> bytes:
        async def go() -> bytes:
            access = await load_access(self._kubeconfig)
            async with KubeClient(access, user_agent=_AGENT) as client:
                return await act(client)

        try:
            return asyncio.run(go())
        except KubeError as error:
            hint = "somebody changed it meanwhile: try again" if isinstance(error, Conflict) else None
            field = f"ServingDeployment {self._namespace}/{self._name}"
            raise Refused(f"{what}: {error}", field=field, hint=hint) from error
