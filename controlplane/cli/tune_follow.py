"""Live progress of a tuning job on standard error: a line for each trial that ended, and what is under way."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from controlplane.cli.tune_text import setting_text

if TYPE_CHECKING:
    from controlplane.model.tuning_records import TrialRecord, TuningEvent
    from controlplane.tuning_embedded import LocalTuning


class Follower:
    """`tell()` shows what has happened since the last call. On a terminal the last line is redrawn."""

    def __init__(self, local: LocalTuning, job: str, *, stream: TextIO | None = None) -> None:
        self._local, self._job = local, job
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        record = local.jobs.get(job)
        self._seen = record.events
        self._metric, self._down = record.spec.objectives[0].metric, record.spec.objectives[0].direction == "minimize"
        self._began_s = time.monotonic()
        self._ended = 0
        self._best: TrialRecord | None = None
        for trial in local.studies.trials_from(job, 0):
            self._consider(trial)

    def tell(self) -> None:
        events = self._local.events.after(self._job, self._seen)
        for event in events:
            self._seen = event.id
            if event.kind == "told":
                self._told(event)
            elif event.kind not in {"asked", "leased"}:
                self._line(f"job {event.kind}{': ' + str(event.data['message']) if event.data.get('message') else ''}")
        if self._terminal or any(event.kind == "asked" for event in events):
            self._status()

    def close(self) -> None:
        """Leave the line clean."""
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _told(self, event: TuningEvent) -> None:
        trial = self._local.studies.trials_from(self._job, int(event.data["trial"]))[0]
        if not trial.final:
            self._line(f"trial {trial.number} is measured again: {event.data.get('reason', event.data['verdict'])}")
            return
        self._ended += 1
        self._consider(trial)
        shown = f"{self._metric} {trial.objectives[0]:.5g}" if trial.objectives else trial.reason.splitlines()[-1][:120] if trial.reason else ""  # fmt: skip
        over = " over a limit" if any(value > 0 for value in trial.violation or []) else ""
        self._line(
            f"trial {trial.number} ({trial.purpose.value}) {trial.state.value}{over}  {shown}  {setting_text(trial.setting)}"
        )

    def _consider(self, trial: TrialRecord) -> None:
        if trial.purpose.value != "search" or not trial.objectives or any(v > 0 for v in trial.violation or []):
            return
        best = self._best.objectives[0] if self._best is not None and self._best.objectives else None
        value = trial.objectives[0]
        if best is None or (value < best if self._down else value > best):
            self._best = trial

    def _status(self) -> None:
        record = self._local.jobs.get(self._job)
        counts = record.counts
        parts = [f"{counts.asked - counts.waiting - counts.leased} trials ended, budget {record.budget}"]
        if self._best is not None and self._best.objectives:
            parts.append(
                f"best {self._metric} {self._best.objectives[0]:.5g}{self._width()} (trial {self._best.number})"
            )
        if self._ended:
            left = max(0, record.budget - counts.asked) + counts.waiting + counts.leased
            parts.append(f"about {(time.monotonic() - self._began_s) / self._ended * left / 60:.0f} min of search left")
        open_trials = [t for t in self._local.studies.trials_from(self._job, max(0, counts.asked - 8)) if not t.final]
        if open_trials:
            parts.append(f"now trial {open_trials[0].number}: {open_trials[0].why}")
        text = "; ".join(parts)
        self._stream.write(f"\r\x1b[K{text[:200]}" if self._terminal else f"  {text}\n")
        self._stream.flush()

    def _width(self) -> str:
        """Half the 90 % interval of the best trial's own runs, where they say one."""
        if self._best is None:
            return ""
        found = self._local.studies.measured(self._job, number=self._best.number)
        width = found[-1].measurement.metrics.get("half_width_pct") if found else None
        return "" if width is None else f" +-{width:.1f} %"

    def _line(self, text: str) -> None:
        self._stream.write(("\r\x1b[K" if self._terminal else "") + text + "\n")
        self._stream.flush()
