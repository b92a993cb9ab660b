"""Writes: always with the caller's own token, always to custom resources.

The API server decides: its admission, validation and RBAC judge every write as if the caller had used kubectl.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from controlplane.api.auth import Identity
from controlplane.api.cache import Document, document_json
from controlplane.api.documents import MetadataIn
from controlplane.api.problem import Problem
from controlplane.kube import MERGE_PATCH, KubeClient, Resource

FIELD_MANAGER = "trimtab-api"
_decode_document = msgspec.json.Decoder(Document).decode


def _shown(resource: Resource, answer: bytes) -> bytes:
    return document_json(resource, _decode_document(answer))


def _expected_version(metadata: MetadataIn, if_match: str | None) -> str:
    """The version the caller's change is based on. Raises Problem 428 without one, 400 when the two differ."""
    header = if_match.strip().removeprefix("W/").strip('"') if if_match else None
    stated = metadata.resource_version
    if header and stated and header != stated:
        raise Problem(400, "VersionsDiffer", "If-Match and metadata.resourceVersion name different versions.")
    version = header or stated
    if not version:
        raise Problem(
            428,
            "VersionRequired",
            "An update must say which version it changes.",
            field="metadata.resourceVersion",
            hint="Read the object, change it, and send its metadata.resourceVersion (or an If-Match header) along.",
        )
    return version


async def create(
    client: KubeClient,
    identity: Identity,
    resource: Resource,
    namespace: str | None,
    metadata: MetadataIn,
    spec: Mapping[str, Any],
) -> bytes:
    """POST as the caller; the stored object."""
    body = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": metadata.name, "labels": metadata.labels, "annotations": metadata.annotations},
        "spec": spec,
    }
    path = f"{resource.path(namespace)}"
    return _shown(
        resource,
        await client.request("POST", path, query={"fieldManager": FIELD_MANAGER}, body=body, token=identity.token),
    )


async def replace(
    client: KubeClient,
    identity: Identity,
    resource: Resource,
    namespace: str | None,
    name: str,
    metadata: MetadataIn,
    spec: Mapping[str, Any],
    if_match: str | None,
) -> bytes:
    """PUT of spec, labels and annotations as the caller, on the version the caller read.

    Everything else in metadata (finalizers, owners) stays as it is: a client that never saw it must not drop it.
    """
    if metadata.name != name:
        raise Problem(
            400, "NamesDiffer", f"The path names {name!r}, metadata.name {metadata.name!r}.", field="metadata.name"
        )
    version = _expected_version(metadata, if_match)
    stored: dict[str, Any] = msgspec.json.decode(await client.get(resource, name, namespace, token=identity.token))
    held = stored.get("metadata", {})
    if held.get("resourceVersion") != version:
        raise Problem(
            409,
            "Conflict",
            f"{name!r} has changed since: it is at version {held.get('resourceVersion')}, the update is based on {version}.",
            hint="Read it again, apply the change to what is there now, and send that.",
        )
    held["labels"], held["annotations"] = metadata.labels, metadata.annotations
    held.pop("managedFields", None)
    stored["spec"] = spec
    path = resource.path(namespace, name)
    return _shown(
        resource,
        await client.request("PUT", path, query={"fieldManager": FIELD_MANAGER}, body=stored, token=identity.token),
    )


async def scale(
    client: KubeClient,
    identity: Identity,
    resource: Resource,
    namespace: str,
    name: str,
    replicas: int,
    version: str | None,
) -> bytes:
    """Set spec.replicas through the scale subresource as the caller; the stored Scale."""
    body: dict[str, Any] = {"spec": {"replicas": replicas}}
    if version:
        body["metadata"] = {"resourceVersion": version.strip().removeprefix("W/").strip('"')}
    return await client.patch(
        resource,
        body,
        name,
        namespace,
        subresource="scale",
        content_type=MERGE_PATCH,
        query={"fieldManager": FIELD_MANAGER},
        token=identity.token,
    )


async def patch(
    client: KubeClient,
    identity: Identity,
    resource: Resource,
    namespace: str,
    name: str,
    body: Mapping[str, Any],
    *,
    dry_run: bool = False,
) -> None:
    """A merge patch as the caller; with metadata.resourceVersion in it, only of that version. `dry_run`: the cluster
    judges it and keeps nothing."""
    query: dict[str, Any] = {"fieldManager": FIELD_MANAGER} | ({"dryRun": "All"} if dry_run else {})
    await client.patch(
        resource, dict(body), name, namespace, content_type=MERGE_PATCH, query=query, token=identity.token
    )


async def delete(
    client: KubeClient, identity: Identity, resource: Resource, namespace: str | None, name: str, version: str | None
) -> None:
    """DELETE as the caller; with a version, only that version."""
    wanted = version.strip().removeprefix("W/").strip('"') if version else None
    await client.delete(resource, name, namespace, resource_version=wanted, token=identity.token)
