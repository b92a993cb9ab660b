"""Plug-ins by name: what we ship, as `module:attribute`, and what others register as entry points. Loaded when used."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from controlplane.model.errors import InvalidSpec, UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """`kind` in a person's words (`sampler`), `group` the entry points' group (`trimtab.samplers`)."""

    def __init__(self, kind: str, group: str, built_in: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._built_in = dict(built_in)
        self._loaded: dict[str, T] = {}

    def names(self) -> list[str]:
        """What there is, ours and others'. Raises InvalidSpec where two stand under one name."""
        return sorted(self._built_in | self._others())

    def get(self, name: str, *, field: str | None = None) -> T:
        """Raises UnknownName (with the nearest), InvalidSpec where it cannot be loaded or two bear the name."""
        if name not in self._loaded:
            others: dict[str, EntryPoint] = self._others()
            if name not in self._built_in and name not in others:
                raise self._unknown(name, field)
            self._loaded[name] = cast(T, self._load(name, others, field))
        return self._loaded[name]

    def _load(self, name: str, others: Mapping[str, EntryPoint], field: str | None) -> Any:
        if name in self._built_in:
            module, _, attribute = self._built_in[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        try:
            return others[name].load()
        except Exception as error:  # somebody else's code
            raise InvalidSpec(
                f"the {self.kind} {name!r} cannot be loaded: {type(error).__name__}: {error}",
                field=field,
                value=name,
                hint=f"it is registered as {others[name].value} under {self.group}",
            ) from error

    def _others(self) -> dict[str, EntryPoint]:
        out: dict[str, EntryPoint] = {}
        for found in entry_points(group=self.group):
            twin = out.get(found.name)
            if found.name in self._built_in or (twin is not None and twin.value != found.value):
                raise InvalidSpec(
                    f"two {self.kind}s are called {found.name!r}",
                    value=found.value,
                    hint=f"uninstall one of the packages that register it under {self.group}",
                )
            out[found.name] = found
        return out

    def _unknown(self, name: str, field: str | None) -> UnknownName:
        names = self.names()
        close = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}"
        return UnknownName(f"unknown {self.kind} {name!r}", field=field, value=name, hint=hint)
