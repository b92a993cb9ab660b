"""Reading the operator lists of a compiled engine: which are attention, in which format, and what they add up to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def split(count: int, times: Callable[[int], list[float]]) -> tuple[list[int], list[int]]:
    """Positions of the operators that do not look at the KV cache, and of those that do.

    The package's own split goes by operator name and leaves the MLA blocks of some backends out of attention.
    """
    rest: list[int] = []
    attention: list[int] = []
    for i in range(count):
        (attention if len(set(times(i))) > 1 else rest).append(i)
    return rest, attention


def weight_format(ops: list[Any], kind: str) -> str | None:
    """Weight format of most operators of a kind (routers and logits stay at bf16)."""
    words = [body["quant_mode"] for op in ops for name, body in op.items() if name == kind and "quant_mode" in body]
    quantised = [word for word in words if word != "bfloat16"]
    return quantised[0] if quantised else (words[0] if words else None)


def summed(values: list[tuple[Any, ...]]) -> float:
    total = 0.0
    for item in values:
        total += item[1]
    return total
