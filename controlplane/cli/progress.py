"""Progress on standard error, only for work that takes long enough to wonder about."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TextIO

FIRST_TIME = "the first question about an engine tabulates it; the first of all compiles the replay"

_SILENT_S = 2.0  # shorter work needs no progress
_TERMINAL_S = 0.2  # redraws of the line
_LINE_S = 10.0  # lines in a log file


class Progress:
    """`with Progress("rows", total) as tell: tell(done)`. One line that is redrawn on a terminal; a line now and then
    elsewhere. Nothing at all within the first two seconds."""

    def __init__(self, what: str, total: int | None = None, *, stream: TextIO | None = None) -> None:
        self._what, self._total = what, total
        self._stream = sys.stderr if stream is None else stream
        self._started = time.monotonic()
        self._next = self._started + _SILENT_S
        self._terminal = self._stream.isatty()
        self._drawn = False

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        share = "" if not self._total else f" of {self._total} ({100 * done // self._total} %)"
        left = ""
        if self._total and done:
            left = f", about {(now - self._started) / done * (self._total - done):.0f} s left"
        self._show(f"{done}{share} {self._what}, {now - self._started:.0f} s{left}", now)

    def say(self, what: str) -> None:
        """Where the work stands, in words."""
        now = time.monotonic()
        if now >= self._next:
            self._show(f"{what}, {now - self._started:.0f} s", now)

    def _show(self, text: str, now: float) -> None:
        self._next = now + (_TERMINAL_S if self._terminal else _LINE_S)
        self._stream.write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        self._stream.flush()
        self._drawn = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn and self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


@contextmanager
def told_when_slow(text: str, *, after_s: float = _SILENT_S) -> Iterator[None]:
    """Says once what is being waited for, when the block takes long."""
    timer = threading.Timer(after_s, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
