"""Token ids to text, piece by piece: safe at UTF-8 boundaries and at stop strings.

Byte-level vocabularies (all models with a GPT-2 type tokeniser) are a table from id to bytes: the concatenation is the
text. Whether that holds for the loaded model is checked against the tokeniser itself at start; where it does not
(SentencePiece strips a leading space, for one), text comes from decoding a sliding window of ids.
"""

from __future__ import annotations

import codecs
import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

DecodeBatch = Callable[[list[list[int]]], list[str]]

REPLACEMENT: Final = "\ufffd"
_decoder = codecs.getincrementaldecoder("utf-8")


class TextPieces(Protocol):
    """Turns the ids of ONE request into text; `flush` gives what was held back for an incomplete character."""

    def feed(self, token_ids: Sequence[int]) -> str: ...

    def flush(self) -> str: ...


class BytePieces:
    """Text from a table of bytes per token id."""

    __slots__ = ("_decode", "_table")

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._decode = _decoder(errors="replace").decode

    def feed(self, token_ids: Sequence[int]) -> str:
        table = self._table
        if len(token_ids) == 1:
            return self._decode(table[token_ids[0]])
        return self._decode(b"".join([table[i] for i in token_ids]))

    def flush(self) -> str:
        return self._decode(b"", True)


class WindowPieces:
    """Text by decoding a sliding window of ids: the difference between the window with and without the new ids."""

    __slots__ = ("_decode", "_ids", "_read", "_start")

    def __init__(self, decode: DecodeBatch) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = 0  # the window begins here: one emitted piece of context before the new ids
        self._read = 0  # ids before this one have been emitted

    def feed(self, token_ids: Sequence[int]) -> str:
        self._ids.extend(token_ids)
        before, after = self._texts()
        if after.endswith(REPLACEMENT) or len(after) <= len(before):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return after[len(before) :]

    def flush(self) -> str:
        before, after = self._texts()
        self._start = self._read = len(self._ids)
        return after[len(before) :]

    def _texts(self) -> tuple[str, str]:
        if self._read == len(self._ids):
            return "", ""
        window = self._ids[self._start :]
        before = window[: self._read - self._start]
        if not before:
            return "", self._decode([window])[0]
        first, second = self._decode([before, window])
        return first, second


class StopFilter:
    """Passes text on until a stop string appears; holds back an end that may become one."""

    __slots__ = ("_held", "_longest", "_stops", "matched")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.matched = False

    def feed(self, text: str) -> str:
        """The text that may be shown now. After a match `matched` is True and nothing more comes."""
        if not self._stops:
            return text
        if self.matched:
            return ""
        pending = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := pending.find(stop)) >= 0]
        if found:  # the one that is complete first, so that the answer does not depend on how the text was cut
            self.matched = True
            self._held = ""
            return pending[: min(found)[1]]
        keep = 0
        for length in range(min(self._longest - 1, len(pending)), 0, -1):
            tail = pending[-length:]
            if any(stop.startswith(tail) for stop in self._stops):
                keep = length
                break
        cut = len(pending) - keep
        self._held = pending[cut:]
        return pending[:cut]

    def flush(self) -> str:
        """What was held back, when generation ended without a match."""
        held, self._held = self._held, ""
        return "" if self.matched else held


def byte_table(vocabulary: dict[bytes, int], decode: DecodeBatch) -> list[bytes] | None:
    """Bytes per token id (empty for special tokens), or None when concatenation does not give the tokeniser's text."""
    size = max(vocabulary.values(), default=-1) + 1
    table = [b""] * size
    for token, token_id in vocabulary.items():
        table[token_id] = token
    singles = decode([[token_id] for token_id in range(size)])
    for token_id, text in enumerate(singles):
        if not text:
            table[token_id] = b""
        elif text != table[token_id].decode(errors="replace"):
            return None
    chooser = random.Random(0)
    samples = [[chooser.randrange(size) for _ in range(12)] for _ in range(64)]
    for ids, text in zip(samples, decode(samples), strict=True):
        if b"".join(table[i] for i in ids).decode(errors="replace") != text:
            return None
    return table
