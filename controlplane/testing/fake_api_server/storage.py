"""Objects, versions and history of the fake API server: everything except HTTP."""

from __future__ import annotations

import copy
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from controlplane.testing.fake_api_server.selectors import Selector
from controlplane.testing.fake_api_server.server_side_apply import apply_fields, merge_patch

Object = dict[str, Any]
ObjectKey = tuple[str, str]  # namespace, name


class Refusal(Exception):
    """An answer other than success: HTTP status, reason and message of a `Status` object."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the history. `before` is None for a creation, `after` holds the last state of a deletion."""

    version: int
    type: str
    collection: str
    before: Object | None
    after: Object


@dataclass(frozen=True, slots=True)
class Page:
    items: list[Object]
    version: int
    token: str
    remaining: int


class FakeStorage:
    """One etcd's worth of objects, in memory. `collection` is `group/version/plural` (group empty for core)."""

    def __init__(self, now: Callable[[], str], history_limit: int = 100_000) -> None:
        self._now = now
        self._objects: dict[str, dict[ObjectKey, Object]] = {}
        self._history: deque[Change] = deque(maxlen=history_limit)
        self._compacted_at = 0
        self._snapshots: dict[str, tuple[int, list[Object]]] = {}
        self._numbers = itertools.count(1)
        self.version = 1
        self.listeners: list[Callable[[Change], None]] = []

    # reading

    def get(self, collection: str, namespace: str, name: str) -> Object:
        found = self._objects.get(collection, {}).get((namespace, name))
        if found is None:
            raise Refusal(404, "NotFound", f'{collection.rsplit("/", maxsplit=1)[-1]} "{name}" not found')
        return found

    def objects(self, collection: str) -> list[Object]:
        return [obj for _, obj in sorted(self._objects.get(collection, {}).items())]

    def page(self, collection: str, namespace: str | None, selector: Selector, limit: int, token: str) -> Page:
        """One page. All pages of a list show the version of the first; a token from before a compaction is Gone."""
        if token:
            if token not in self._snapshots:
                raise Refusal(410, "Expired", "The provided continue parameter is too old")
            version, rest = self._snapshots.pop(token)
        else:
            version = self.version
            rest = [
                obj
                for obj in self.objects(collection)
                if namespace in (None, obj["metadata"].get("namespace", "")) and selector.matches(obj)
            ]
        items, left = (rest[:limit], rest[limit:]) if limit else (rest, [])
        following = ""
        if left:
            following = f"fake-{next(self._numbers)}"
            self._snapshots[following] = (version, left)
        return Page(items, version, following, len(left))

    def changes_since(self, version: int) -> list[Change]:
        """Raises Refusal 410 when `version` has been compacted away."""
        oldest = self._history[0].version if len(self._history) == self._history.maxlen else 0
        if version < self._compacted_at or version < oldest - 1:
            raise Refusal(410, "Expired", f"too old resource version: {version} ({self._compacted_at})")
        return [change for change in self._history if change.version > version]

    def compact(self) -> None:
        """Forget the history: watches from an older version and continue tokens answer 410 from now on."""
        self._history.clear()
        self._snapshots.clear()
        self._compacted_at = self.version

    def bump(self) -> int:
        """Raise the version as writes to other resources do."""
        self.version += 1
        return self.version

    # writing

    def create(self, collection: str, namespace: str, obj: Object) -> Object:
        obj = copy.deepcopy(obj)
        metadata = obj.setdefault("metadata", {})
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = f"{metadata['generateName']}{next(self._numbers):05d}"
        name = metadata.get("name", "")
        if not name:
            raise Refusal(422, "Invalid", "metadata.name: Required value")
        if (namespace, name) in self._objects.get(collection, {}):
            raise Refusal(409, "AlreadyExists", f'{collection.rsplit("/", maxsplit=1)[-1]} "{name}" already exists')
        if namespace:
            metadata["namespace"] = namespace
        metadata["uid"] = f"00000000-0000-4000-8000-{next(self._numbers):012d}"
        metadata["creationTimestamp"] = self._now()
        metadata["generation"] = 1
        return self._store(collection, None, obj)

    def replace(self, collection: str, namespace: str, name: str, obj: Object, *, status_only: bool) -> Object:
        old = self.get(collection, namespace, name)
        self._check_preconditions(old, obj.get("metadata", {}))
        new = copy.deepcopy(old)
        if status_only:
            _replace_field(new, "status", obj.get("status"))
        else:
            new = copy.deepcopy(obj)
            _replace_field(new, "status", copy.deepcopy(old.get("status")))
        return self._update(collection, old, new)

    def merge(self, collection: str, namespace: str, name: str, patch: Object, *, status_only: bool) -> Object:
        old = self.get(collection, namespace, name)
        self._check_preconditions(old, patch.get("metadata", {}))
        allowed = {k: v for k, v in patch.items() if (k in ("status", "metadata") if status_only else k != "status")}
        return self._update(collection, old, merge_patch(old, allowed))

    def apply(
        self, collection: str, namespace: str, name: str, body: Object, manager: str, *, force: bool, status_only: bool
    ) -> Object:
        body = copy.deepcopy(body)
        body.setdefault("metadata", {})["name"] = name
        body = {key: value for key, value in body.items() if key == "metadata" or (key == "status") is status_only}
        old = self._objects.get(collection, {}).get((namespace, name))
        owner = f"{manager}/status" if status_only else manager
        if old is None:
            if status_only:
                raise Refusal(404, "NotFound", f'"{name}" not found')
            new, conflicts = apply_fields({}, body, owner, force=True)
            return self.create(collection, namespace, new)
        new, conflicts = apply_fields(old, body, owner, force=force)
        if conflicts:
            raise Refusal(409, "Conflict", f"Apply failed with conflicts: {'; '.join(conflicts)}")
        return self._update(collection, old, new)

    def delete(self, collection: str, namespace: str, name: str, preconditions: Object) -> Object:
        old = self.get(collection, namespace, name)
        self._check_preconditions(old, preconditions)
        if old["metadata"].get("finalizers"):
            if old["metadata"].get("deletionTimestamp"):
                return old
            new = copy.deepcopy(old)
            new["metadata"]["deletionTimestamp"] = self._now()
            return self._store(collection, old, new)
        return self._drop(collection, old)

    def put(self, collection: str, obj: Object) -> Object:
        """Set an object as it is, status included, whatever was there: for arranging a test."""
        namespace, name = obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
        old = self._objects.get(collection, {}).get((namespace, name))
        if old is None:
            created = self.create(collection, namespace, obj)
            return created
        new = copy.deepcopy(obj)
        for field in ("uid", "creationTimestamp", "generation"):
            new["metadata"].setdefault(field, old["metadata"].get(field))
        return self._store(collection, old, new)

    def _update(self, collection: str, old: Object, new: Object) -> Object:
        metadata = new["metadata"]
        for field in ("uid", "creationTimestamp", "generation", "name", "namespace", "deletionTimestamp"):
            _replace_field(metadata, field, old["metadata"].get(field))
        metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
        if new == old:
            return old  # a write that changes nothing makes no version and no event
        if new.get("spec") != old.get("spec"):
            metadata["generation"] = old["metadata"].get("generation", 0) + 1
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            return self._drop(collection, new)
        return self._store(collection, old, new)

    def _store(self, collection: str, old: Object | None, new: Object) -> Object:
        self.version += 1
        metadata = new["metadata"]
        metadata["resourceVersion"] = str(self.version)
        self._objects.setdefault(collection, {})[metadata.get("namespace", ""), metadata["name"]] = new
        self._record(Change(self.version, "ADDED" if old is None else "MODIFIED", collection, old, new))
        return new

    def _drop(self, collection: str, old: Object) -> Object:
        self.version += 1
        last = copy.deepcopy(old)
        last["metadata"]["resourceVersion"] = str(self.version)
        del self._objects[collection][old["metadata"].get("namespace", ""), old["metadata"]["name"]]
        self._record(Change(self.version, "DELETED", collection, old, last))
        return last

    def _record(self, change: Change) -> None:
        self._history.append(change)
        for listener in list(self.listeners):
            listener(change)

    @staticmethod
    def _check_preconditions(old: Object, wanted: Object) -> None:
        for field in ("uid", "resourceVersion"):
            value = wanted.get(field)
            if value and value != old["metadata"][field]:
                raise Refusal(
                    409, "Conflict", f"Precondition failed: {field} {value} does not match {old['metadata'][field]}"
                )


def _replace_field(container: Object, field: str, value: Any) -> None:
    if value is None:
        container.pop(field, None)
    else:
        container[field] = value
