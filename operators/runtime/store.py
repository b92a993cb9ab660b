"""The cache of one resource type: rows by key, and named indexes from any value to keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from operators.runtime.objects import Cached, Key

T = TypeVar("T", bound=Cached)
Indexer = Callable[[T], Iterable[str]]
"""The values an object is found under; pure, and cheap: it runs for the old and the new row of every event."""


class Store(Generic[T]):
    """Read by controllers, written by the informer alone. Rows are shared: never change one."""

    def __init__(self, indexers: Mapping[str, Indexer[T]] | None = None) -> None:
        self._rows: dict[Key, T] = {}
        self._indexers = dict(indexers or {})
        # Most values of an owner index lead to few keys; a lone key is kept as itself, not in a 216-byte set.
        self._indexes: dict[str, dict[str, Key | set[Key]]] = {name: {} for name in self._indexers}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    def get(self, key: Key) -> T | None:
        return self._rows.get(key)

    def all_keys(self) -> list[Key]:
        return list(self._rows)

    def values(self) -> list[T]:
        return list(self._rows.values())

    def __iter__(self) -> Iterator[T]:
        return iter(self._rows.values())

    def by_index(self, index: str, value: str) -> list[T]:
        """The rows found under `value`, in key order. Raises KeyError for an index that was never declared."""
        return [self._rows[key] for key in sorted(self.index_keys(index, value))]

    def index_keys(self, index: str, value: str) -> tuple[Key, ...]:
        """The keys found under `value`, in no order. Raises KeyError for an undeclared index."""
        entry = self._indexes[index].get(value)
        if entry is None:
            return ()
        return (entry,) if isinstance(entry, str) else tuple(entry)

    def index_values(self, index: str) -> list[str]:
        """Every value that leads to at least one row. Raises KeyError for an undeclared index."""
        return list(self._indexes[index])

    def put(self, key: Key, row: T) -> T | None:
        """Insert or replace the row of `key`; returns what was there."""
        old = self._rows.get(key)
        self._rows[key] = row
        for name, indexer in self._indexers.items():
            index = self._indexes[name]
            if old is None:
                for value in indexer(row):
                    _link(index, value, key)
                continue
            before, after = tuple(indexer(old)), tuple(indexer(row))
            if before == after:
                continue
            for value in before:
                if value not in after:
                    _unlink(index, value, key)
            for value in after:
                if value not in before:
                    _link(index, value, key)
        return old

    def remove(self, key: Key) -> T | None:
        """Drop; returns what was there."""
        old = self._rows.pop(key, None)
        if old is not None:
            for name, indexer in self._indexers.items():
                for value in indexer(old):
                    _unlink(self._indexes[name], value, key)
        return old


def _link(index: dict[str, Key | set[Key]], value: str, key: Key) -> None:
    entry = index.get(value)
    if entry is None:
        index[value] = key
    elif isinstance(entry, str):
        if entry != key:
            index[value] = {entry, key}
    else:
        entry.add(key)


def _unlink(index: dict[str, Key | set[Key]], value: str, key: Key) -> None:
    entry = index.get(value)
    if isinstance(entry, set):
        entry.discard(key)
        if not entry:
            del index[value]
    elif entry == key:
        del index[value]
