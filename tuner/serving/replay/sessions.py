"""Prompt heads that requests share, as chains of segments: turns of a session, or hashed blocks."""

from __future__ import annotations

from typing import Any

import numpy as np


class SessionChains:
    """Requests are added in order of arrival; `arrays` gives the fields of `Requests`."""

    def __init__(self) -> None:
        self._offsets = [0]
        self._ids: list[int] = []
        self._ends: list[int] = []
        self._parents: list[int] = []
        self._own: list[int] = []
        self._groups: list[int] = []
        self._turns: dict[str, list[int]] = {}
        self._group_of: dict[str, int] = {}
        self._hashed: dict[int, int] = {}

    def add_turn(self, isl: int, osl: int, session: str | None) -> None:
        """A turn's prompt begins with the turns before it, prompt and answer, as far as it is long enough."""
        if session is None:
            self._close(-1, -1)
            return
        chain = self._turns.setdefault(session, [])
        while chain and self._ends[chain[-1]] >= isl:
            chain.pop()  # shorter than the conversation so far: it has been cut, or begins anew
        self._ids += chain
        # the last token of an answer has no KV: nothing was computed from it
        own = self._segment(isl + osl - 1, chain[-1] if chain else -1) if isl + osl > 1 else -1
        self._close(own, self._group_of.setdefault(session, len(self._group_of)))
        if own >= 0:
            chain.append(own)

    def add_hashes(self, isl: int, hashes: list[int], block_tokens: int) -> None:
        """Whole blocks of the prompt; a last, shorter block is not shared."""
        parent, head = -1, -1
        for place, name in enumerate(hashes[: isl // block_tokens]):
            if name not in self._hashed:
                self._hashed[name] = self._segment((place + 1) * block_tokens, parent)
            segment = self._hashed[name]
            if self._parents[segment] != parent or self._ends[segment] != (place + 1) * block_tokens:
                break  # not a chain: the same block after another text cannot be shared
            self._ids.append(segment)
            parent = segment
            head = segment if head < 0 else head
        self._close(-1, head)

    def _segment(self, end: int, parent: int) -> int:
        self._ends.append(end)
        self._parents.append(parent)
        return len(self._ends) - 1

    def _close(self, own: int, group: int) -> None:
        self._offsets.append(len(self._ids))
        self._own.append(own)
        self._groups.append(group)

    def arrays(self) -> dict[str, Any]:
        return {
            "group": np.array(self._groups, np.int64), "segment_offsets": np.array(self._offsets, np.int64),
            "segment_ids": np.array(self._ids, np.int64), "segment_ends": np.array(self._ends, np.int64),
            "segment_parents": np.array(self._parents, np.int64), "own_segment": np.array(self._own, np.int64),
        }  # fmt: skip
