"""Reads the data files once and answers by id. Standard library only: this runs in every process at start.

In the files a number is a pair `[value, source id]`. Numbers of an engine may instead stand in an object that has a
`source` key. The loader turns pairs into plain attributes and keeps the source in the record's `sources`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from controlplane.catalog.engines import (
    Capabilities,
    Drain,
    Engine,
    Knob,
    Launch,
    Metrics,
    MultiNode,
    PromptLimit,
    Rule,
)
from controlplane.catalog.facts import Source
from controlplane.catalog.hardware import Accelerator, Nic
from controlplane.catalog.models import LinearAttention, Mla, ModelShape, Moe, SlidingWindow
from controlplane.model.errors import UnknownName

_DATA = Path(__file__).parent / "data"
_PARTS: dict[str, type[Any]] = {
    "mla": Mla,
    "moe": Moe,
    "linear": LinearAttention,
    "sliding_window": SlidingWindow,
    "launch": Launch,
    "metrics": Metrics,
    "drain": Drain,
    "multi_node": MultiNode,
    "prompt_limit": PromptLimit,
    "capabilities": Capabilities,
}
_LISTS: dict[str, type[Any]] = {"shape": Knob, "knobs": Knob, "rules": Rule}
_SHOWN = 12  # known names that an error repeats
_LISTED = {"model": "models", "accelerator": "accelerators"}  # what `trimtab catalog` calls those with more
T = TypeVar("T", Accelerator, Nic, ModelShape, Engine)


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """Known names that look like `name`, best first. Case and the separators `-_. ` do not count."""
    plain: dict[str, str] = {}
    for candidate in known:
        plain.setdefault(_plain(candidate), candidate)
    wanted = _plain(name)
    if wanted in plain:
        return [plain[wanted]]
    found = difflib.get_close_matches(wanted, plain, n=count, cutoff=0.5)
    found += [key for key in plain if wanted and key not in found and (key.startswith(wanted) or wanted in key)]
    return [plain[key] for key in found[:count]]


def unknown(what: str, name: str, known: Iterable[str], *, field: str | None = None) -> UnknownName:
    """The error for a name that is not in the catalogue: it names the nearest known ones."""
    names = sorted(known)
    close = nearest(name, names) or nearest(name.rsplit("/", maxsplit=1)[-1], names)  # somebody else's copy of a model
    if close:
        hint = f"did you mean {' or '.join(close)}?"
    elif len(names) > _SHOWN and what in _LISTED:
        hint = f"`trimtab catalog {_LISTED[what]}` lists what is known"
    else:
        hint = f"known: {', '.join(names[:_SHOWN])}"
    return UnknownName(f"unknown {what} {name!r}", field=field, value=name, hint=hint)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything the data files say, by id. `sources` are the documents all numbers come from."""

    accelerators: Mapping[str, Accelerator]
    nics: Mapping[str, Nic]
    models: Mapping[str, ModelShape]
    engines: Mapping[str, Engine]
    sources: Mapping[str, Source]
    model_names: Mapping[str, str]  # id, repository id and aliases, lower case, to id

    def accelerator(self, id: str, *, field: str | None = None) -> Accelerator:
        """Accelerator by id. Raises UnknownName with the nearest known ids."""
        return self.accelerators.get(id) or _fail("accelerator", id, self.accelerators, field)

    def nic(self, id: str, *, field: str | None = None) -> Nic:
        """NIC or fabric class by id. Raises UnknownName with the nearest known ids."""
        return self.nics.get(id) or _fail("NIC class", id, self.nics, field)

    def model(self, id: str, *, field: str | None = None) -> ModelShape:
        """Model by id. Raises UnknownName with the nearest known ids."""
        return self.models.get(id) or _fail("model", id, self.models, field)

    def engine(self, id: str, *, field: str | None = None) -> Engine:
        """Engine by id. Raises UnknownName with the nearest known ids."""
        return self.engines.get(id) or _fail("engine", id, self.engines, field)

    def find_model(self, name: str) -> ModelShape | None:
        """Model by id, Hugging Face repository id or alias, in any case. None when nothing matches exactly."""
        found = self.model_names.get(name.lower())
        return None if found is None else self.models[found]


@lru_cache(maxsize=1)
def load() -> Catalog:
    """The catalogue that ships with Trimtab. Read once per process."""
    return load_from(_DATA)


def load_from(folder: Path) -> Catalog:
    """A catalogue from a folder with the five data files. Raises ValueError naming the file and record at fault."""
    sources = {key: Source(id=key, **value) for key, value in _read(folder / "sources.json").items()}
    models = _records(folder / "models.json", ModelShape, sources)
    names: dict[str, str] = {}
    for model in models.values():
        for name in (model.id, model.hf_repo, *model.aliases):
            if name is not None and names.setdefault(name.lower(), model.id) != model.id:
                raise ValueError(f"models.json: {name} names both {names[name.lower()]} and {model.id}")
    return Catalog(
        accelerators=_records(folder / "accelerators.json", Accelerator, sources),
        nics=_records(folder / "nics.json", Nic, sources),
        models=models,
        engines=_records(folder / "engines.json", Engine, sources),
        sources=sources,
        model_names=names,
    )


def _fail(what: str, name: str, known: Iterable[str], field: str | None) -> NoReturn:
    raise unknown(what, name, known, field=field)


def _read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def _records(path: Path, kind: type[T], sources: Mapping[str, Source]) -> dict[str, T]:
    out: dict[str, T] = {}
    for record in _read(path):
        used: dict[str, Source] = {}
        where = f"{path.name}: {record.get('id')}"
        try:
            values = _values(record, "", used, sources)
            item = kind(sources=used, **values)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from error
        if item.id in out:
            raise ValueError(f"{where}: listed twice")
        out[item.id] = item
    return out


def _values(
    record: Mapping[str, Any], prefix: str, used: dict[str, Source], sources: Mapping[str, Source]
) -> dict[str, Any]:
    """Attribute values of one JSON object; sources of its numbers go to `used` under their dotted path."""
    out: dict[str, Any] = {}
    if "source" in record:
        used[prefix or "."] = sources[record["source"]]
    for key, value in record.items():
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(value, list):
            if _is_fact(value):
                used[path] = sources[value[1]]
                out[key] = value[0]
            elif key in _LISTS:
                part = _LISTS[key]
                out[key] = tuple(part(**_values(item, f"{path}.{item['field']}", used, sources)) for item in value)
            else:
                out[key] = tuple(value)
        elif isinstance(value, dict) and key in _PARTS:
            out[key] = _PARTS[key](**_values(value, path, used, sources))
        else:
            out[key] = value
    return out


def _is_fact(value: list[Any]) -> bool:
    return (
        len(value) == 2
        and isinstance(value[0], int | float)
        and not isinstance(value[0], bool)
        and isinstance(value[1], str)
    )


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(".", "").replace(" ", "")
