"""Prompts longer than what the tokeniser takes at once.

Tokenisers made from GGUF files cut their input at a fixed length (8,192 tokens in OpenVINO 2026.4) without a word, and
no argument changes it. A text that reaches the limit is encoded in pieces. Pieces begin at a space, where byte-level
BPE splits anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Encode = Callable[[str], list[int]]

_TOKENS_PER_CHARACTER: Final = 4  # at most: a character has up to four bytes, a byte-level token at least one
_PROBES: Final = (20_000, 30_000)


def cut_length(encode: Encode) -> int | None:
    """The length in tokens at which the tokeniser cuts, None when it does not (up to the probes' length)."""
    shorter, longer = (len(encode(" a" * count)) for count in _PROBES)
    return shorter if shorter == longer else None


def encode_all(first: Encode, encode: Encode, text: str, limit: int | None) -> list[int]:
    """The ids of the whole text. `first` encodes the beginning (it may add special tokens), `encode` what follows;
    `limit` is what `cut_length` found."""
    ids = first(text)
    if limit is None or len(ids) < limit:
        return ids
    beginning, *others = _pieces(text, max(1, limit // _TOKENS_PER_CHARACTER - 1))
    ids = first(beginning)
    for piece in others:
        ids += encode(piece)
    return ids


def _pieces(text: str, longest: int) -> list[str]:
    """Parts of at most `longest` characters that join to the text, cut before a space where there is one."""
    parts = []
    start = 0
    while len(text) - start > longest:
        space = text.rfind(" ", start + 1, start + longest + 1)
        end = space if space > start else start + longest
        parts.append(text[start:end])
        start = end
    parts.append(text[start:])
    return parts
