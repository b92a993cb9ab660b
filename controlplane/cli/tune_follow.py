"""Live progress of a tuning job on standard error: a line for each trial that ended, and how far the job is."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, TextIO

from controlplane.cli.tune_progress import Pace, bar, best_first
from controlplane.cli.tune_text import setting_text
from controlplane.model.errors import TrimtabError
from controlplane.model.tuning_records import progress_text

if TYPE_CHECKING:
    from controlplane.cli.tune_place import JobPlace
    from controlplane.model.tuning_records import TrialRecord, TuningEvent, TuningJobRecord

# How often the last line is drawn anew while nothing happens: an API is asked twice for it.
_REDRAW_S, _REDRAW_REMOTE_S = 1.0, 5.0
_RECENT = 16


class Follower:
    """`tell()` shows what has happened since the last call. On a terminal the last line is redrawn."""

    def __init__(self, place: JobPlace, record: TuningJobRecord, *, stream: TextIO | None = None) -> None:
        self._place, self._job = place, record.id
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._seen = record.events
        self._metric, self._down = record.spec.objectives[0].metric, record.spec.objectives[0].direction == "minimize"
        self._best: TrialRecord | None = best_first(place, record)
        self._width = self._width_of_best()
        self._trouble: str | None = None
        self._next_s = 0.0

    def tell(self, wait_s: float = 0.0) -> list[TuningEvent]:
        """What happened, which may be waited for a while."""
        events, trouble = self._place.happened(self._job, self._seen, wait_s)
        if trouble != self._trouble:
            self._trouble = trouble
            self._line(f"{trouble}; trying again" if trouble else "the API answers again")
        for event in events:
            self._seen = event.id
            if event.kind == "told":
                self._told(event)
            elif event.kind not in {"asked", "leased"}:
                self._line(f"job {event.kind}{_why(event)}")
        due = self._terminal and (bool(events) or time.monotonic() >= self._next_s)
        if trouble is None and (due or any(event.kind == "asked" for event in events)):
            self._status()
        return events

    def close(self) -> None:
        """Leave the line clean."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _told(self, event: TuningEvent) -> None:
        number = int(event.data["trial"])
        try:
            trial, _ = self._place.trial(self._job, number)
        except TrimtabError as error:  # an API that has gone meanwhile, a job that was deleted
            self._line(f"trial {number}: {event.data.get('verdict', 'ended')}; what it gave is not known ({error})")
            return
        if not trial.final:
            self._line(f"trial {trial.number} is measured again: {event.data.get('reason', event.data['verdict'])}")
            return
        self._consider(trial)
        shown = f"{self._metric} {trial.objectives[0]:.5g}" if trial.objectives else trial.reason.splitlines()[-1][:120] if trial.reason else ""  # fmt: skip
        over = " over a limit" if any(value > 0 for value in trial.violation or []) else ""
        over = f" cut short{over}" if trial.short else over
        self._line(
            f"trial {trial.number} ({trial.purpose.value}) {trial.state.value}{over}  {shown}  {setting_text(trial.setting)}"
        )

    def _consider(self, trial: TrialRecord) -> None:
        if trial.purpose.value != "search" or not trial.objectives or any(v > 0 for v in trial.violation or []):
            return
        if trial.short:
            return
        best = self._best.objectives[0] if self._best is not None and self._best.objectives else None
        value = trial.objectives[0]
        if best is None or (value < best if self._down else value > best):
            self._best = trial
            self._width = self._width_of_best()

    def _status(self) -> None:
        self._next_s = time.monotonic() + (_REDRAW_REMOTE_S if self._place.remote else _REDRAW_S)
        try:
            record = self._place.get(self._job)
            recent = self._place.trials(self._job, limit=_RECENT, offset=max(0, record.counts.asked - _RECENT))
        except TrimtabError:
            return  # the next one says it
        parts = [progress_text(record)]
        if record.state.value != "running":
            parts.append(record.state.value)
        left = Pace.of(recent).left_text(record)
        if left:
            parts.append(left)
        if self._best is not None and self._best.objectives:
            parts.append(f"best {self._metric} {self._best.objectives[0]:.5g}{self._width} (trial {self._best.number})")
        now = next((trial for trial in recent if not trial.final), None)
        if now is not None and record.state.value == "running":
            parts.append(f"now trial {now.number}: {now.why}")
        text = "; ".join(parts)
        if self._terminal:
            columns = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be drawn over
            self._stream.write(f"\r\x1b[K{f'{bar(record)} {text}'[:columns]}")
        else:
            self._stream.write(f"  {text[:200]}\n")
        self._stream.flush()

    def _width_of_best(self) -> str:
        """Half the 90 % interval of the best trial's own runs, where they say one."""
        if self._best is None:
            return ""
        try:
            _, found = self._place.trial(self._job, self._best.number)
        except TrimtabError:
            return ""
        width = found[-1].measurement.metrics.get("half_width_pct") if found else None
        return "" if width is None else f" +-{width:.1f} %"

    def _line(self, text: str) -> None:
        self._stream.write(("\r\x1b[K" if self._terminal else "") + text + "\n")
        self._stream.flush()


def _why(event: TuningEvent) -> str:
    """Its cause, as far as the event has it."""
    trial, why = event.data.get("trial"), event.data.get("message") or event.data.get("reason")
    parts = [*([f"trial {trial}"] if trial is not None else []), *([str(why)] if why else [])]
    return f": {': '.join(parts)}" if parts else ""
