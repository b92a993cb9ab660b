"""A pool as people write it on a command line: `h100=h100-sxm-80gb:32,price=3.2`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, UnknownName
from tuner.serving.resolve import find_accelerator

# Words after a pool's count -> (field of PlannablePool, type).
_WORDS: dict[str, tuple[str, type]] = {
    "price": ("price_per_accelerator_hour", float),
    "currency": ("currency", str),
    "nic": ("nic", str),
    "nics": ("nics_per_node", int),
    "per-node": ("per_node", int),
    "cap": ("power_cap_w", float),
}


def parse_pool(text: str, *, field: str, find: Callable[..., str] | None = None) -> dict[str, Any]:
    """`NAME=ACCELERATOR:COUNT[,word=value]...` as fields of a PlannablePool. `find(name, field=)`: the
    accelerator's catalogue id, where other short names than serving's are known. Raises InvalidSpec or UnknownName on
    `field`."""
    head, *words = text.split(",")
    name, equals, rest = head.partition("=")
    accelerator, colon, count = rest.rpartition(":")
    if not (equals and colon and name and accelerator and count.isdecimal()):
        raise InvalidSpec(
            f"{text[:80]!r} is not a pool",
            field=field,
            value=text[:80],
            limit="NAME=ACCELERATOR:COUNT[,price=2.5,per-node=8]",
        )
    out: dict[str, Any] = {
        "name": name,
        "accelerator": find_accelerator(load(), accelerator, field=field).id
        if find is None
        else find(accelerator, field=field),
        "free": int(count),
    }
    for word in words:
        key, _, value = word.partition("=")
        if key not in _WORDS:
            raise UnknownName(
                f"unknown word {key[:40]!r}", field=field, value=text[:80], hint=f"known: {', '.join(_WORDS)}"
            )
        name_of, kind = _WORDS[key]
        try:
            out[name_of] = kind(value)
        except ValueError:
            raise InvalidSpec(f"{key} must be a number", field=field, value=text[:80]) from None
    return out
