"""From the bytes of an answer and the moments they came to a sample."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tuner.measure.loadgen.wire import Pieces

_MOST_ERROR = 300  # characters of a server's error that are kept


@dataclass(slots=True)
class Answer:
    """Moments are those of the pieces. `tokens` is the server's own count where it gives one, else that of events."""

    status: int = 0
    first_s: float | None = None
    last_s: float | None = None
    tokens: int = 0
    events: int = 0
    gap_max_s: float | None = None
    done: bool = False
    error: str = ""


def parse(pieces: Pieces) -> Answer:
    """Never raises: what is no proper answer has an error."""
    answer = Answer()
    try:
        _parse(pieces, answer)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        answer.error = answer.error or f"not an answer: {type(error).__name__}: {error}"[:_MOST_ERROR]
    return answer


def _parse(pieces: Pieces, answer: Answer) -> None:
    raw = b"".join(data for _, data in pieces)
    ends, total = [], 0
    for _, data in pieces:
        total += len(data)
        ends.append(total)
    head, found, _ = raw.partition(b"\r\n\r\n")
    if not found:
        answer.error = "no answer"
        return
    answer.status = int(head.split(b" ", 2)[1])
    body_at = len(head) + 4
    if answer.status != 200:
        answer.error = f"HTTP {answer.status}: {_plain(raw[body_at:], head)}"[:_MOST_ERROR]
        return
    buffer = b""
    for body, end in _chunks(raw, body_at, head):
        at_s = pieces[bisect_left(ends, end)][0]
        buffer += body.replace(b"\r\n", b"\n")
        *events, buffer = buffer.split(b"\n\n")
        for event in events:
            _event(event, at_s, answer)
    if not answer.done and not answer.error:
        answer.error = "the stream ended early"


def _chunks(raw: bytes, at: int, head: bytes) -> Iterator[tuple[bytes, int]]:
    """(bytes of the body, offset in `raw` where they end)."""
    if b"chunked" not in head.lower():
        yield raw[at:], len(raw)
        return
    while (line := raw.find(b"\r\n", at)) >= 0:
        size = int(raw[at:line].split(b";")[0], 16)
        if size == 0 or line + 2 + size > len(raw):
            return
        yield raw[line + 2 : line + 2 + size], line + 2 + size
        at = line + 4 + size


def _event(event: bytes, at_s: float, answer: Answer) -> None:
    if not event.startswith(b"data:"):
        return
    text = event[5:].strip()
    if text == b"[DONE]":
        answer.done = True
        return
    said: dict[str, Any] = json.loads(text)
    if "error" in said:
        answer.error = f"error event: {json.dumps(said['error'])}"[:_MOST_ERROR]
        return
    if said.get("choices"):
        if answer.last_s is not None:
            answer.gap_max_s = max(answer.gap_max_s or 0.0, at_s - answer.last_s)
        answer.first_s = at_s if answer.first_s is None else answer.first_s
        answer.last_s = at_s
        answer.events += 1
    usage = said.get("usage")
    if usage:
        answer.tokens = int(usage["completion_tokens"])
    elif answer.tokens < answer.events:
        answer.tokens = answer.events


def _plain(body: bytes, head: bytes) -> str:
    """The message of an error answer."""
    if b"chunked" in head.lower():
        body = b"".join(part for part, _ in _chunks(head + b"\r\n\r\n" + body, len(head) + 4, head))
    try:
        said = json.loads(body)
        error = said.get("error", said) if isinstance(said, dict) else said
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except ValueError:
        return body[:_MOST_ERROR].decode("utf-8", "replace")
