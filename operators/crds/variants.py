"""Rules that keep variants of one object apart: a structural schema has the fields of all, each kind takes its own."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from operators.crds.rules import Rule
from operators.crds.schema import comparable, seen_by_cel, structural

_TAG = "kind"


def variant_rules(path: str, variants: Iterable[type[BaseModel]]) -> tuple[Rule, ...]:
    """One rule per variant, each a model told apart by `kind`: what it needs is there, what others have is not."""
    known = {_kind(variant): _fields(variant) for variant in variants}
    names = dict.fromkeys(name for fields in known.values() for name in fields)
    rules = []
    for kind, fields in known.items():
        needed = [name for name, required in fields.items() if required]
        foreign = [name for name in names if name not in fields]
        must = [f"has(self.{name})" for name in needed] + [f"!has(self.{name})" for name in foreign]
        also = [name for name in fields if name not in needed]
        message = f"{kind} needs {', '.join(needed)}"
        message += f" and takes {', '.join(also)}; nothing else" if also else " and takes nothing else"
        rules.append(Rule(path, f"self.{_TAG} != '{kind}' || ({' && '.join(must)})", message, f".{_TAG}"))
    return tuple(rules)


def _kind(variant: type[BaseModel]) -> str:
    return str(variant.model_fields[_TAG].default)


def _fields(variant: type[BaseModel]) -> dict[str, bool]:
    """Name on the wire to whether it must be given. Left out: what CEL cannot see; the type alone judges that."""
    schema = comparable(structural(variant))
    needed = schema.get("required", [])
    return {name: name in needed for name, child in schema["properties"].items() if name != _TAG and seen_by_cel(child)}
