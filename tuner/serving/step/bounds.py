"""Whether a measured engine can be true: held against its speed of light and against neighbouring quantisations.

A table can be wrong for a case without saying so: block-scaled fp8 matrix products of vLLM are on file at 3 to 12 times
the time of bf16 ones of the same shape on Hopper and Blackwell, and fp8 experts at 3 times. Such a part is taken from
the neighbour instead, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tuner.serving.step.aiconfigurator import MeasuredParts
from tuner.serving.step.query import Miss, Query

Compile = Callable[[Query], MeasuredParts]
Field = Literal["gemm_quant", "moe_quant"]

BF16 = "bfloat16"
# Formats of the same bytes per weight and the same arithmetic, closest first.
SAME_WIDTH: dict[str, tuple[str, ...]] = {
    "fp8": ("fp8_block",),
    "fp8_static": ("fp8", "fp8_block"),
    "fp8_ootb": ("fp8", "fp8_block"),
    "fp8_block": ("fp8",),
    "nvfp4_wo": ("w4a16_nvfp4",),
    "w4a16_nvfp4": ("nvfp4_wo",),
    "w4a16_mxfp4_cutlass": ("w4a16_mxfp4",),
}
# Fewer bytes and no less arithmetic than bf16 cannot take twice its time; formats of one width differ by less than
# three times where both tables are sound (1.4 at most on the systems looked at).
_MOST_TIMES_BF16 = 2.0
_MOST_TIMES_SAME_WIDTH = 3.0
_LEAST_OF_LIGHT = 0.98

_DECODE_PROBES = (1, 16, 64, 256)  # sequences
_CONTEXT_PROBES = (512, 2_048, 8_192)  # tokens
_ATTENTION_PROBES = ((1, 2_048, 0), (1, 512, 16_384), (8, 512, 0))  # batch, new, past
_KV_PROBES = ((1, 8_192), (32, 2_048), (128, 4_096))  # sequences, kv


@dataclass(frozen=True, slots=True)
class Review:
    """The engine to use, what was found, and whether a part of it is a neighbour's."""

    parts: MeasuredParts
    notes: tuple[str, ...]
    replaced: bool


def review(parts: MeasuredParts, compile_query: Compile) -> Review:
    """`parts`, with quantisations whose tables cannot be true replaced by the nearest one that can."""
    notes: list[str] = []
    replaced = False
    formats: tuple[tuple[Field, str | None], ...] = (("gemm_quant", parts.gemm_format), ("moe_quant", parts.moe_format))
    for field, word in formats:
        if word is None or word == BF16:
            continue
        found = _neighbour(parts, field, word, compile_query)
        if found is not None:
            parts, note = found
            notes.append(note)
            replaced = True
    return Review(parts, (*notes, *light_notes(parts)), replaced)


def light_notes(parts: MeasuredParts) -> list[str]:
    """One line per part that is faster than its operands can be moved or multiplied at the data sheet's rates."""
    notes: list[str] = []
    asked: Iterable[tuple[str, list[tuple[float, float]]]] = (
        ("context", [(parts.context_ms(c), parts.context_light_ms(c)) for c in _CONTEXT_PROBES]),
        ("decode", [(parts.decode_ms(g), parts.decode_light_ms(g)) for g in _DECODE_PROBES]),
        (
            "context attention",
            [(parts.context_attention_ms(*s), parts.context_attention_light_ms(*s)) for s in _ATTENTION_PROBES],
        ),
        (
            "decode attention",
            [(parts.decode_attention_ms(*s), parts.decode_attention_light_ms(*s)) for s in _KV_PROBES],
        ),
    )
    for what, pairs in asked:
        worst = min((value / light for value, light in pairs if light > 0), default=1.0)
        if worst < _LEAST_OF_LIGHT:
            notes.append(f"{what}: {worst:.2f} of its speed-of-light time at a probed shape")
    return notes


def _neighbour(
    parts: MeasuredParts, field: Field, word: str, compile_query: Compile
) -> tuple[MeasuredParts, str] | None:
    """The engine to use instead and why. None: the quantisation's own tables stand."""
    own = _rest(parts)
    others: dict[str, tuple[MeasuredParts, float]] = {}
    for name in (*SAME_WIDTH.get(word, ()), BF16):
        try:
            other = compile_query(_with(parts.query, field, name))
            others[name] = other, max(a / b for a, b in zip(own, _rest(other), strict=True))
        except (Miss, RuntimeError, ValueError):  # not measured, or not at a probed shape
            continue
    wrong = [
        name
        for name, (_, times) in others.items()
        if times > (_MOST_TIMES_BF16 if name == BF16 else _MOST_TIMES_SAME_WIDTH)
    ]
    if not wrong:
        return None
    sound = next((name for name in others if _sound(name, others)), wrong[0])
    measured = ", ".join(f"{others[name][1]:.1f} x {name}" for name in wrong)
    what = "experts" if field == "moe_quant" else "dense layers"
    return others[sound][0], f"{word} tables of {what} cannot be true (up to {measured}): {sound} stands in"


def _sound(name: str, others: Mapping[str, tuple[MeasuredParts, float]]) -> bool:
    """Whether a neighbour's own tables hold against bf16, where there are such."""
    if name == BF16 or BF16 not in others:
        return True
    pairs = zip(_rest(others[name][0]), _rest(others[BF16][0]), strict=True)
    return max(a / b for a, b in pairs) <= _MOST_TIMES_BF16


def _rest(parts: MeasuredParts) -> list[float]:
    return [*(parts.decode_ms(g) for g in _DECODE_PROBES), *(parts.context_ms(c) for c in _CONTEXT_PROBES)]


def _with(query: Query, field: Field, word: str) -> Query:
    return replace(query, gemm_quant=word) if field == "gemm_quant" else replace(query, moe_quant=word)
