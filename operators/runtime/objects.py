"""The few object fields every controller needs, as msgspec structs that skip all the rest while decoding.

`gc=False` keeps cached objects out of the cyclic collector's walks: they hold strings, tuples and other structs,
never a reference back, so nothing can leak.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import msgspec

Key = str
"""`namespace/name`, or `name` for a cluster-scoped object."""

Labels = tuple[tuple[str, str], ...]
"""Labels as sorted pairs: a quarter of a dict's memory, and equal sets share one tuple (see `intern_labels`)."""


class Wire(msgspec.Struct, gc=False):
    """Base for structs that mirror API JSON. Declare only the fields used: undeclared ones cost nothing."""


class OwnerReference(Wire):
    uid: str
    kind: str = ""
    name: str = ""
    apiVersion: str = ""
    controller: bool = False


class ObjectMeta(Wire):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""
    generation: int | None = None
    creationTimestamp: str | None = None
    deletionTimestamp: str | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    annotations: dict[str, str] = msgspec.field(default_factory=dict)
    ownerReferences: list[OwnerReference] = msgspec.field(default_factory=list)
    finalizers: list[str] = msgspec.field(default_factory=list)


class Cached(Protocol):
    """What a store needs to know of an object. Fulfilled by `Row` and by anything with these four attributes."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def resource_version(self) -> str: ...


class Row(msgspec.Struct, gc=False):
    """Base for flat cached rows: derive, add the columns a controller reads, fill them in its `project` function."""

    namespace: str
    name: str
    uid: str
    resource_version: str

    @property
    def key(self) -> Key:
        return key_of(self.namespace, self.name)


def key_of(namespace: str, name: str) -> Key:
    return f"{namespace}/{name}" if namespace else name


def split_key(key: Key) -> tuple[str, str]:
    """(namespace, name); the namespace is empty for a cluster-scoped object."""
    namespace, _, name = key.rpartition("/")
    return namespace, name


def controller_of(owners: Iterable[OwnerReference]) -> OwnerReference | None:
    """The owner that controls the object, of which the API server allows one."""
    for owner in owners:
        if owner.controller:
            return owner
    return None


intern = sys.intern
"""Share one copy of a string that many objects repeat: namespaces, node names, phases, label keys."""

_label_table: dict[Labels, Labels] = {}
_LABEL_TABLE_LIMIT = 100_000


def intern_labels(labels: Mapping[str, str]) -> Labels:
    """Sorted, interned pairs; objects with equal labels share the tuple. For labels many objects have in common:
    pick those with `pick_labels` first when some value is unique to each object."""
    if not labels:
        return ()
    # The table is asked with the pairs as they came: objects of one template come in one order, and hit here.
    as_given = tuple(labels.items())
    known = _label_table.get(as_given)
    if known is not None:
        return known
    pairs = tuple(sorted([(intern(key), intern(value)) for key, value in as_given]))
    if len(_label_table) >= _LABEL_TABLE_LIMIT:
        _label_table.clear()  # rows keep their tuples; only future sharing starts anew
    shared = _label_table.setdefault(pairs, pairs)
    _label_table[as_given] = shared
    return shared


_picked_table: dict[tuple[tuple[str, ...], tuple[str | None, ...]], Labels] = {}


def pick_labels(labels: Mapping[str, str], keys: tuple[str, ...]) -> Labels:
    """Only the named labels, interned; what a selector never asks for need not be kept."""
    picked = (keys, tuple(map(labels.get, keys)))
    known = _picked_table.get(picked)
    if known is not None:
        return known
    if len(_picked_table) >= _LABEL_TABLE_LIMIT:
        _picked_table.clear()
    pairs = sorted((intern(key), intern(value)) for key, value in zip(*picked, strict=True) if value is not None)
    shared = _picked_table[picked] = tuple(pairs)
    return shared


def label(labels: Labels, key: str) -> str | None:
    return next((value for name, value in labels if name == key), None)


def owner_reference(api_version: str, kind: str, name: str, uid: str) -> dict[str, Any]:
    """A controller ownerReference that also blocks the owner's foreground deletion until the child is gone."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
