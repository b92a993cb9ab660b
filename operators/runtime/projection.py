"""From the API's JSON to a cached row: which fields to decode, and what to keep of them."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from operators.runtime.objects import Cached

W = TypeVar("W", bound=msgspec.Struct)
T = TypeVar("T", bound=Cached)


class ListMeta(msgspec.Struct):
    resourceVersion: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _EventMeta(msgspec.Struct):
    """Any type in each field: what is wrong with one must not hide the others."""

    name: Any = ""
    namespace: Any = ""
    resourceVersion: Any = ""


class _AnyObject(msgspec.Struct):
    metadata: _EventMeta = msgspec.field(default_factory=_EventMeta)


class Identity(NamedTuple):
    """What can be told of an object that nothing else can be read of; empty where it cannot."""

    namespace: str
    name: str
    resource_version: str


class RawList(msgspec.Struct):
    """A page whose items are decoded one by one, for when one of them cannot be decoded."""

    metadata: ListMeta = msgspec.field(default_factory=ListMeta)
    items: list[msgspec.Raw] = msgspec.field(default_factory=list)


class RawEvent(msgspec.Struct):
    type: str
    object: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Projection(Generic[W, T]):
    """`wire` mirrors the declared fields of the JSON; `project` turns it into the row the cache keeps.

    `project` must be pure and cheap (it runs for every event). Rows should be flat, with shared strings interned:
    that is the difference between 2 and 6 KB per pod.
    """

    wire: type[W]
    project: Callable[[W], T]


class Decoder(Generic[W, T]):
    """The compiled decoders of one projection."""

    def __init__(self, projection: Projection[W, T]) -> None:
        wire = projection.wire
        list_meta = ("metadata", ListMeta, msgspec.field(default_factory=ListMeta))
        # Runtime types: a type checker cannot follow them, so the decoders below are declared as decoding Any.
        page: Any = msgspec.defstruct("Page", [("items", types.GenericAlias(list, (wire,))), list_meta])
        event: Any = msgspec.defstruct("Event", [("type", str), ("object", wire)], gc=False)
        self.project = projection.project
        self.object = msgspec.json.Decoder(wire)
        self.page: msgspec.json.Decoder[Any] = msgspec.json.Decoder(page)
        self.event: msgspec.json.Decoder[Any] = msgspec.json.Decoder(event)
        self.raw_page = msgspec.json.Decoder(RawList)
        self.raw_event = msgspec.json.Decoder(RawEvent)
        self._meta = msgspec.json.Decoder(_AnyObject)

    def identity(self, raw: bytes | msgspec.Raw) -> Identity:
        """Never raises: whatever of the object's identity cannot be read is empty."""
        try:
            meta = self._meta.decode(raw).metadata
        except msgspec.MsgspecError:
            return Identity("", "", "")
        return Identity(_text(meta.namespace), _text(meta.name), _text(meta.resourceVersion))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
