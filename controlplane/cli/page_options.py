"""`--metrics AFTER,before=BEFORE,closed=8`: metrics pages with the load that each of them saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

# What differs from load to load, in the words of the options; all else is the case's.
_NUMBERS: Mapping[str, type[int] | type[float]] = {
    "closed": int,
    "poisson": float,
    "rate": float,
    "requests": int,
    "isl": int,
    "osl": int,
    "isl_range": float,
    "osl_range": float,
    "prefix": int,
}
_SAME = {"rate": "poisson"}
_ARRIVALS = ("closed", "poisson")
_HINT = "--metrics"


@dataclass(frozen=True, slots=True)
class Pages:
    """One load: the page after it, the page before it (None: it began with the engine), what is known of it."""

    after: Path
    before: Path | None
    load: dict[str, Any]

    def case(self, shared: dict[str, Any]) -> dict[str, Any]:
        """The case with this load's own words on top."""
        own = dict(self.load)
        arrivals = {name: own.pop(name) for name in _ARRIVALS if name in own}
        return {**shared, **own, **({"arrivals": arrivals} if arrivals else {})}


def read_pages(texts: Sequence[str], befores: Sequence[Path]) -> list[Pages]:
    """`befores`: pages of --metrics-before, in the order of the --metrics that do not name their own. Raises
    UsageError or BadParameter."""
    found = [_pages(text) for text in texts]
    lacking = [index for index, pages in enumerate(found) if pages.before is None]
    if befores and len(befores) != len(lacking):
        raise click.UsageError(
            f"{len(befores)} pages of --metrics-before for {len(lacking)} of --metrics: one for each, in the same order"
        )
    for index, before in zip(lacking, befores, strict=False):
        found[index] = Pages(found[index].after, before, found[index].load)
    return found


def _pages(text: str) -> Pages:
    if Path(text).is_file():  # a name may hold commas
        return Pages(Path(text), None, {})
    name, *parts = text.split(",")
    before: Path | None = None
    load: dict[str, Any] = {}
    for part in parts:
        word, _, value = part.partition("=")
        if word == "before":
            before = _file(value)
        else:
            key = _SAME.get(word, word)
            if key in load:
                raise click.BadParameter(f"{word} stands twice in {text!r}", param_hint=_HINT)
            load[key] = _number(word, value)
    if all(name in load for name in _ARRIVALS):
        raise click.BadParameter(f"give closed or rate in {text!r}, not both", param_hint=_HINT)
    return Pages(_file(name), before, load)


def _file(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise click.BadParameter(f"there is no file {name!r}", param_hint=_HINT)
    return path


def _number(word: str, value: str) -> int | float:
    kind = _NUMBERS.get(word)
    if kind is None:
        raise click.BadParameter(f"{word!r} is none of before, {', '.join(_NUMBERS)}", param_hint=_HINT)
    try:
        return kind(value)
    except ValueError:
        raise click.BadParameter(f"{word}={value!r} is no number", param_hint=_HINT) from None
