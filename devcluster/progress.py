"""Show steps with their seconds, and keep the durations for the benchmark.

Steps run in threads where the plan lets them, so every line says which step it belongs to. On a terminal the running
steps share one live last line; elsewhere each step prints a line when it starts long work and when it ends.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO


@dataclass
class StepRecord:
    """One finished or running step: seconds are from the start of the whole."""

    name: str
    start_s: float
    end_s: float | None = None
    outcome: str = "running"

    @property
    def duration_s(self) -> float | None:
        """How long the step took; None while it runs."""
        return None if self.end_s is None else self.end_s - self.start_s


@dataclass
class Progress:
    """Thread-safe reporter. `clock` is monotonic seconds."""

    out: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    quiet: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._records: list[StepRecord] = []
        self._notes: dict[str, str] = {}
        self._started_s = self.clock()
        self._live = self.out.isatty() and not self.quiet
        self._stop = threading.Event()
        if self._live:
            threading.Thread(target=self._tick, daemon=True).start()

    def elapsed_s(self) -> float:
        """Seconds since this reporter was made."""
        return self.clock() - self._started_s

    def begin(self, name: str) -> StepRecord:
        """A step starts."""
        with self._lock:
            record = StepRecord(name, self.elapsed_s())
            self._records.append(record)
            self._draw()
            return record

    def note(self, name: str, text: str) -> None:
        """What a running step is doing now."""
        with self._lock:
            changed = self._notes.get(name) != text
            self._notes[name] = text
            if self._live:
                self._draw()
            elif changed:
                self._line(f"     ..  {name}: {text}")

    def finish(self, record: StepRecord, outcome: str = "done", detail: str = "") -> None:
        """A step ended; `outcome` is done, skipped or failed."""
        with self._lock:
            record.end_s = self.elapsed_s()
            record.outcome = outcome
            note = self._notes.pop(record.name, "")
            mark = {"done": "ok", "skipped": "--", "failed": "!!"}[outcome]
            text = detail or (note if self._live else "")
            self._line(f"{record.duration_s or 0:7.1f}s {mark}  {record.name}{': ' + text if text else ''}", keep=True)

    def say(self, text: str) -> None:
        """A line of its own."""
        with self._lock:
            self._line(text, keep=True)

    def close(self) -> None:
        """Stop drawing; the live line is cleared."""
        self._stop.set()
        with self._lock:
            if self._live:
                self.out.write("\r\x1b[K")
                self.out.flush()
            self._live = False

    def durations_s(self) -> dict[str, float]:
        """Seconds of each finished step, in order of start."""
        with self._lock:
            return {r.name: round(r.duration_s, 2) for r in self._records if r.duration_s is not None}

    def _line(self, text: str, keep: bool = False) -> None:
        if self.quiet and not keep:
            return
        clear = "\r\x1b[K" if self._live else ""
        self.out.write(f"{clear}{text}\n")
        self._draw()
        self.out.flush()

    def _draw(self) -> None:
        if not self._live:
            return
        running = [r for r in self._records if r.end_s is None]
        if not running:
            return
        words = []
        for record in running:
            note = self._notes.get(record.name)
            words.append(f"{record.name}{' (' + note + ')' if note else ''}")
        text = f"{self.elapsed_s():7.1f}s ..  {' | '.join(words)}"
        self.out.write(f"\r\x1b[K{text[: _columns(self.out)]}")
        self.out.flush()

    def _tick(self) -> None:
        while not self._stop.wait(0.5):
            with self._lock:
                self._draw()


def _columns(out: TextIO) -> int:
    """Width of the terminal behind `out`, minus one so that the cursor never wraps."""
    try:
        return max(os.get_terminal_size(out.fileno()).columns - 1, 20)
    except OSError:
        return 100
