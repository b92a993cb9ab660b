"""What a controller remembers of each deployment between two decisions. Lost with the process, and made anew."""

from __future__ import annotations

from dataclasses import replace

from operators.runtime import Key
from operators.serving.executor import Outcome, Refused
from operators.serving.reasons import Reason
from operators.serving.repair import with_failure
from operators.serving.snapshot import Notes, PlanSettings, Taken


class Remembered:
    """Notes of the last decision, and names that turned out to be somebody else's."""

    def __init__(self, settings: PlanSettings) -> None:
        self._settings = settings
        self._notes: dict[Key, Notes] = {}
        self._taken: dict[Key, tuple[Taken, ...]] = {}

    def notes(self, key: Key) -> Notes:
        """What the last decision left for the next."""
        return self._notes.get(key, Notes())

    def taken(self, key: Key) -> tuple[Taken, ...]:
        """Objects that could not be written last time."""
        return self._taken.get(key, ())

    def note(self, key: Key, notes: Notes) -> None:
        """A decision leaves these."""
        self._notes[key] = notes

    def learn(self, key: Key, outcome: Outcome, now_s: float) -> bool:
        """Whether what came of the actions is news for the next decision: names that are taken, pods that are refused."""
        if outcome.taken != self.taken(key):
            self._taken[key] = outcome.taken
            return True
        if outcome.refused:
            self._back_off(key, outcome, now_s)
            return True
        return False

    def forget(self, key: Key) -> None:
        """The deployment is gone."""
        self._notes.pop(key, None)
        self._taken.pop(key, None)

    def _back_off(self, key: Key, outcome: Outcome, now_s: float) -> None:
        """The API server refuses our pods: try again later, and let the next decision say so."""
        notes = self.notes(key)
        back_off = dict(notes.back_off)
        first: dict[str, Refused] = {}
        for refused in outcome.refused:
            first.setdefault(refused.revision, refused)
        for revision, refused in first.items():
            back_off = with_failure(back_off, revision, Reason.PODS_REFUSED, refused.message, self._settings, now_s)
        self._notes[key] = replace(notes, back_off=back_off)
