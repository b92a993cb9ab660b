"""The calibration of an installation: the shipped one, or a file that somebody put beside it and may change any time.

What is wrong with such a file is told, and the shipped calibration stays in use as a whole: a planner must not stop, nor
plan with half of a fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from controlplane.model.errors import InvalidSpec
from controlplane.model.plans import CalibrationUsed
from tuner.serving.calibration.parameters import Calibration, digest_of, load_calibration

FILE_NAME = "calibration.json"
_PROBLEM_CHARS = 1_000
_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Installed:
    """What to predict with, and what to say about it."""

    calibration: Calibration
    used: CalibrationUsed


def installed(place: Path | None) -> Installed:
    """The calibration at `place` (a file, or a folder with a calibration.json), the shipped one where there is none or
    it cannot be used. Never raises."""
    try:
        path = None if place is None else _file_in(place)
        if path is not None:
            found = load_calibration(path)
            return Installed(found, CalibrationUsed(name=found.name, digest=digest_of(found), source="installed"))
    except InvalidSpec as error:
        return _shipped(f"{error}; the shipped calibration is used until it is replaced or removed")
    return _shipped(None)


def _shipped(problem: str | None) -> Installed:
    found = load_calibration()
    used = CalibrationUsed(
        name=found.name,
        digest=digest_of(found),
        source="shipped",
        problem=None if problem is None else problem[:_PROBLEM_CHARS],
    )
    return Installed(found, used)


def _file_in(place: Path) -> Path | None:
    """None: nothing is there. A folder with files, but not that one, is a mistake to be told: keys are easily misnamed."""
    try:
        if not place.is_dir():
            return place if place.exists() else None
        # A mounted ConfigMap keeps its own bookkeeping under names that start with dots.
        names = sorted(item.name for item in place.iterdir() if not item.name.startswith("."))
    except OSError as error:
        raise InvalidSpec(f"cannot be read: {error}", field=str(place)) from error
    if FILE_NAME in names:
        return place / FILE_NAME
    if names:
        shown = ", ".join(names[:_NAMES_SHOWN])
        raise InvalidSpec(
            f"has {shown}, but no {FILE_NAME}", field=str(place), value=shown, hint=f"name the key {FILE_NAME}"
        )
    return None
