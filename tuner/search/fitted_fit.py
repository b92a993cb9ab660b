"""Iteration costs fitted to what a job's first trials measured, one trial after the other.

The logarithms of a trial's figures are nearly a plane in the logarithms of the costs. Each trial's plane is taken where
the costs were believed to be, by replays a step away from there, and taken again where belief has moved far since; between,
the likeliest unknowns under the prior are a linear system (Gauss and Newton's method, the posterior is Laplace's). A trial
that another process disturbed counts less (Student's t). The planes follow from the trials in their order, so a search
that is begun again fits the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt

from controlplane.model.errors import TrimtabError
from controlplane.model.tuning import Told
from tuner.search.fitted_costs import COSTS, Costs
from tuner.search.fitted_replay import Replayer, Run

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# What is fitted, and how far (deviation of the logarithm) a replay with true costs may be off for its own reasons: a tail
# is one or two requests.
FIGURES = (
    ("ttft_mean_ms", 0.12), ("ttft_p50_ms", 0.15), ("ttft_p90_ms", 0.2),
    ("tpot_mean_ms", 0.1), ("tpot_p50_ms", 0.12), ("tpot_p90_ms", 0.2),
    ("e2e_mean_ms", 0.1), ("requests_per_s", 0.08),
)  # fmt: skip
_ALONE = np.array([deviation for _, deviation in FIGURES])
_SIGN = np.array([-1.0 if name.endswith("_per_s") else 1.0 for name, _ in FIGURES])  # by the pace
# Two runs of one setting in fresh processes: a machine with other work is so much faster or slower as a whole.
PACE_SPREAD = 0.1
# Trials that are fitted: the costs are known by then, and a study of any length begins again as quickly.
FITTED_MOST = 24
_STEP = 0.12  # of a plane, in the logarithm: small against what is unknown, large against what one request moves
_FREEDOM = 4.0  # of Student's t
_REWEIGHED = 3
_AGAIN = 2  # planes taken anew at each trial, beside its own
_FIRST_ROUNDS = 5
_MOVE_MOST = 2.5  # of an unknown's logarithm in one step


@dataclass(slots=True, eq=False)
class Plane:
    """One trial: its figures (NaN where unknown), and what a replay gives at and around `at`."""

    told: Told
    rows: Floats  # (4, unknowns)
    seen: Floats
    at: Floats
    there: Floats
    slope: Floats  # (figures, unknowns)
    known: Bools = field(init=False)
    precision: Floats = field(init=False)
    # What it adds to the linear system.
    information: Floats = field(init=False)
    right: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.taken()

    def taken(self) -> None:
        """After `at`, `there` or `slope` has changed. Figures of one run err together, by its pace."""
        self.known = np.isfinite(self.seen) & np.isfinite(self.there) & np.isfinite(self.slope).all(axis=1)
        covariance = np.diag(_ALONE[self.known] ** 2) + PACE_SPREAD**2 * np.outer(_SIGN[self.known], _SIGN[self.known])
        self.precision = np.asarray(np.linalg.inv(covariance), np.float64)
        slope = self.slope[self.known]
        self.information = slope.T @ self.precision @ slope
        self.right = slope.T @ self.precision @ (self.short + slope @ self.at)

    @property
    def short(self) -> Floats:
        """What is seen beyond the replay."""
        return np.asarray((self.seen - self.there)[self.known], np.float64)

    def left(self, unknowns: Floats) -> Floats:
        """What is seen beyond what these unknowns would give."""
        return np.asarray(self.short - self.slope[self.known] @ (unknowns - self.at), np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """`unknowns` with their `spread` (covariance). `off`: median over trials of how far a trial's figures lie from what
    all the others expect of it, as a share; None with one trial."""

    unknowns: Floats
    spread: Floats
    trials: int
    off: float | None


@dataclass(slots=True, eq=False)
class Fitting:
    """The fit after each trial in turn; `of` goes on from the trials it has seen."""

    replayer: Replayer
    costs: Costs
    _told: list[Told] = field(default_factory=list)
    _planes: list[Plane] = field(default_factory=list)
    _fit: Fit | None = None

    def of(self, trials: Sequence[Told]) -> Fit | None:
        """Of measured trials in their order, those with figures that can be replayed; None before the first."""
        known = list(islice((told for told in trials if told.figures), FITTED_MOST))
        if known[: len(self._told)] != self._told:
            self._told, self._planes, self._fit = [], [], None
        for told in known[len(self._told) :]:
            with suppress(TrimtabError):
                self._add(told)
            self._told.append(told)
        return self._fit

    def _add(self, told: Told) -> None:
        seen = np.array([_log(told.figures.get(name)) for name, _ in FIGURES])
        rows = self.costs.rows(told.setting)
        unknowns = self.costs.mean if self._fit is None else self._fit.unknowns
        plane = Plane(told, rows, seen, unknowns, seen, np.zeros((len(FIGURES), unknowns.size)))
        if self._fit is None:
            unknowns = self._paced(plane, unknowns)
        self._take(plane, unknowns)
        planes = [*self._planes, plane]
        for _ in range(_FIRST_ROUNDS if self._fit is None else 1):
            unknowns = self._likeliest(planes, unknowns)
            apart = [float(np.abs((one.at - unknowns) / self.costs.deviation).max()) for one in self._planes]
            for i in np.argsort(-np.array(apart), kind="stable")[:_AGAIN] if apart else ():
                self._take(self._planes[int(i)], unknowns)
            self._take(plane, unknowns)
        unknowns = self._likeliest(planes, unknowns)
        information, _ = self._system(planes, self._weights(planes, unknowns))
        self._planes = planes
        self._fit = Fit(
            unknowns, np.asarray(np.linalg.inv(information), np.float64), len(planes), self._off(planes, unknowns)
        )

    def _paced(self, plane: Plane, unknowns: Floats) -> Floats:
        """An iteration's cost such that the first trial's figures come out in their order of magnitude."""
        moved = unknowns.copy()
        for _ in range(4):
            found = _figures(
                self.replayer.run(plane.told.setting, self.costs.costs(plane.rows, moved), plane.told.seed)
            )
            short = (plane.seen - found)[_SIGN > 0]
            short = short[np.isfinite(short)]
            if not short.size:
                break
            moved[0] += float(np.clip(np.median(short), -4.0, 4.0))
        return moved

    def _take(self, plane: Plane, unknowns: Floats) -> None:
        """Replays at `unknowns`, and with each cost a step above."""
        base = np.log(self.costs.costs(plane.rows, unknowns))
        there = self._figures_at(plane, base)
        slopes = np.empty((len(FIGURES), COSTS))
        for j in range(COSTS):
            moved = base.copy()
            moved[j] += _STEP
            slopes[:, j] = (self._figures_at(plane, moved) - there) / _STEP
        plane.at, plane.there, plane.slope = unknowns.copy(), there, slopes @ plane.rows
        plane.taken()

    def _figures_at(self, plane: Plane, logs: Floats) -> Floats:
        return _figures(self.replayer.run(plane.told.setting, np.exp(logs), plane.told.seed))

    def _likeliest(self, planes: Sequence[Plane], start: Floats) -> Floats:
        """The maximum of the posterior, no further from `start` than the planes may be believed."""
        unknowns = start
        for _ in range(_REWEIGHED):
            information, right = self._system(planes, self._weights(planes, unknowns))
            step = np.linalg.solve(information, right) - start
            unknowns = start + np.clip(step, -_MOVE_MOST, _MOVE_MOST)
        return np.asarray(unknowns, np.float64)

    def _system(self, planes: Sequence[Plane], weights: Floats) -> tuple[Floats, Floats]:
        information = np.diag(self.costs.deviation**-2.0)
        right = information @ self.costs.mean
        for plane, weight in zip(planes, weights, strict=True):
            information = information + weight * plane.information
            right = right + weight * plane.right
        return information, right

    def _weights(self, planes: Sequence[Plane], unknowns: Floats) -> Floats:
        out = []
        for plane in planes:
            left = plane.left(unknowns)
            out.append((_FREEDOM + left.size) / (_FREEDOM + float(left @ plane.precision @ left)))
        return np.array(out)

    def _off(self, planes: Sequence[Plane], unknowns: Floats) -> float | None:
        if len(planes) < 2:
            return None
        weights = self._weights(planes, unknowns)
        information, right = self._system(planes, weights)
        errors = []
        for plane, weight in zip(planes, weights, strict=True):
            if plane.known.any():
                others = np.linalg.solve(information - weight * plane.information, right - weight * plane.right)
                errors.append(float(np.median(np.abs(plane.left(others)))))
        return math.expm1(min(float(np.median(errors)), 20.0)) if errors else None


def _figures(run: Run) -> Floats:
    return np.array([_log(run.figure(name, None)) for name, _ in FIGURES])


def _log(value: float | None) -> float:
    return math.log(value) if value is not None and value > 0 and math.isfinite(value) else math.nan
