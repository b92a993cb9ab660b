"""Where a number comes from: sources, and records that can name the source of each of their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SourceKind = Literal[
    "vendor datasheet",
    "vendor documentation",
    "cloud documentation",
    "model configuration",
    "paper",
    "engine documentation",
    "engine source",
    "simulator data",
    "standard",
    "driver output",
    "press",
    "own",
]


@dataclass(frozen=True, slots=True)
class Source:
    """A public document (or our own code) that states numbers of the catalogue.

    `licence` says under which terms the data may be repeated, where that matters; plain facts need none.
    """

    id: str
    title: str
    publisher: str
    kind: SourceKind
    url: str | None = None
    year: int | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class Sourced:
    """A record whose numbers are plain attributes, with the document behind each of them one call away."""

    id: str
    sources: Mapping[str, Source]

    def source_of(self, field: str) -> Source | None:
        """Source of one number; nested numbers by dotted path (`moe.experts`). None when the number is unknown
        or the field holds no number."""
        return self.sources.get(field)
