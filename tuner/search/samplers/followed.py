"""Asks that follow a simulator fitted by the job's own trials, as long as it tells what they measure.

A candidate's expected value is the simulator's, weighed and corrected by what was measured beside it; how unsure that is
comes from the spread of the costs and from the corrections. The ask is the largest expected improvement. A simulator that
is far off for trials it was not fitted to, or that does not tell what is better, is not followed: the sampler goes on as
if there were none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlplane.model.tuning import Proposal, Setting, Told
from tuner.search.candidates import around
from tuner.search.fitted import Expected, Scores, Simulator, scored
from tuner.search.fitted_fit import Fit
from tuner.search.gaussian import cumulative, fit_averaged
from tuner.search.history import within
from tuner.search.space import Rows, Space
from tuner.search.transfer import weight_of

Floats = npt.NDArray[np.float64]

# Settings that are replayed for an ask: drawn anywhere, and near the most promising of those.
_DRAWN, _NEAR = 36, 14
_SEEN_MOST = 40
# A simulator that is off by more, or worth less where trials differ, is not followed; it takes so many trials to know.
_OFF_MOST, _OFF_TRIALS = 0.5, 3
_WEIGHT_LEAST, _WEIGHT_TRIALS = 0.3, 4
_DIFFER_LEAST = 0.1  # deviation of the expected scores: less is within noise
# After so many trials that brought nothing better, one ask in `_STALE_EVERY` still follows it: what a simulator is wrong
# about where nobody measured does not show in what was measured.
_STALE, _STALE_EVERY = 3, 3
# Scores are off by this much at least, whatever few trials say.
_DOUBT = 0.1
_APART = 0.02  # squared distance to a trial under way


@dataclass(frozen=True, slots=True)
class Followed:
    """`proposal` None: ask without the simulator; `note` says why, where that is news. `believed`: it tells what it was
    not fitted to, and promises nothing more."""

    proposal: Proposal | None
    note: str = ""
    believed: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """Of an ask: p(ok) of rows, what is asked already, and what a failure costs; a gain below `least_gain` is none."""

    ok: Callable[[Rows], Floats]
    pending: Sequence[Setting]
    floor: float
    failure_cost: float
    least_gain: float
    pairs: int


def begin(simulator: Simulator, note: str) -> Followed:
    """The first ask of all: what the engine runs with when nobody says anything, if the space has it."""
    in_use = simulator.in_use()
    if in_use is None:
        return Followed(None)
    why = f"what {simulator.engine} runs with by itself"
    if in_use.chosen:
        chosen = ", ".join(f"{name} {in_use.setting[name]}" for name in in_use.chosen)
        unknown = "its default is unknown" if len(in_use.chosen) == 1 else "their defaults are unknown"
        why = f"{why}; {chosen} chosen, {unknown}"
    why = f"{why}: a simulator is fitted to it"
    return Followed(Proposal(setting=in_use.setting, reason=(f"{why} ({note})" if note else why)[:512], full=True))


def follow(
    simulator: Simulator, space: Space, rng: np.random.Generator, measured: Sequence[Told], terms: Terms
) -> Followed:
    """The next ask after these measured trials, in their order."""
    fit = simulator.fit(measured)
    if fit is None:
        return Followed(None)
    if fit.off is not None and fit.trials >= _OFF_TRIALS and fit.off > _OFF_MOST:
        return Followed(None, f"{_of(fit)}: not followed")
    objective = simulator.spec.objectives[0]
    values = [one.values[0] for one in measured]
    scores = Scores.over(values, counts=simulator.counts, maximize=objective.direction == "maximize")
    kept = within(scores.of(np.array(values)), _SEEN_MOST)
    asked = ((measured[int(i)], simulator.expected_of(measured[int(i)])) for i in kept)
    told = [(one, expected) for one, expected in asked if expected is not None]
    if not told:
        return Followed(None, "the fitted simulator cannot replay what was measured")
    seen = scores.of(np.array([one.values[0] for one, _ in told]))
    if _in_vain([one for one, _ in told], seen, measured) >= _STALE and len(measured) % _STALE_EVERY:
        return Followed(None)
    forecast, _ = scored([expected for _, expected in told], scores)
    weight = weight_of(forecast, seen)
    if len(told) >= _WEIGHT_TRIALS and weight < _WEIGHT_LEAST and float(np.std(forecast)) > _DIFFER_LEAST:
        return Followed(None, f"{_of(fit)}, does not tell what is better: not followed")
    known = space.rows_of([one.setting for one, _ in told])
    correct, believed = _corrections(space, known, seen - weight * forecast, terms.pairs)
    best = _best([one for one, _ in told], 0.5 * (seen + weight * forecast + believed))
    rows, found = _candidates(simulator, space, rng, known, seen, scores)
    if not found:
        return Followed(None)
    mean, spread = scored(found, scores)
    more, doubt = correct(rows)
    deviation = np.hypot(weight * spread, doubt)
    z = (weight * mean + more - best) / deviation
    gain = deviation * (z * cumulative(z) + np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi))
    gain *= np.array([one.kept for one in found])
    ok = terms.ok(rows)
    worth = np.where(ok >= terms.floor, gain * ok - terms.failure_cost * (1.0 - ok), -np.inf)
    worth[_taken(space, rows, [one.setting for one, _ in told], terms.pending)] = -np.inf
    i = int(np.argmax(worth))
    if worth[i] < terms.least_gain:
        return Followed(None, believed=fit.trials >= _OFF_TRIALS)
    reason = f"expected gain {gain[i] * 100:.2g} %, {objective.metric} {found[i].value:.4g} by forecast: {_of(fit)}"
    return Followed(Proposal(setting=space.setting(rows, i), reason=reason[:512]))


def _of(fit: Fit) -> str:
    """What is followed, and how good it is."""
    trials = "1 trial" if fit.trials == 1 else f"{fit.trials} trials"
    off = "" if fit.off is None else f", off by {fit.off:.0%} in the median of trials left out"
    return f"a simulator fitted to {trials}{off}"


def _corrections(
    space: Space, known: Rows, left: Floats, pairs: int
) -> tuple[Callable[[Rows], tuple[Floats, Floats]], Floats]:
    """What is added to the simulator at rows, and how unsure that is; and what is added at the known ones."""
    if len(left) >= _WEIGHT_TRIALS:
        model = fit_averaged(space.features(known), left, pairs)

        def learnt(rows: Rows) -> tuple[Floats, Floats]:
            mean, deviation = model.at(space.features(rows))
            return mean, np.maximum(deviation, 1e-6)

        return learnt, learnt(known)[0]
    shift = float(left.sum()) / (len(left) + 1)
    doubt = max(_DOUBT, float(np.sqrt(np.mean((left - shift) ** 2))))

    def even(rows: Rows) -> tuple[Floats, Floats]:
        return np.full(len(rows), shift), np.full(len(rows), doubt)

    return even, np.full(len(left), shift)


def _best(told: Sequence[Told], believed: Floats) -> float:
    """Of what keeps every limit; where nothing does, anything is better."""
    holds = _holds(told)
    return float(np.max(believed[holds])) if holds.any() else float(np.min(believed))


def _in_vain(told: Sequence[Told], seen: Floats, measured: Sequence[Told]) -> int:
    """Trials measured since the best."""
    best = told[int(np.argmax(np.where(_holds(told), seen, -np.inf)))].number
    return sum(one.number > best for one in measured[-_STALE:])


def _holds(told: Sequence[Told]) -> npt.NDArray[np.bool_]:
    """Measured in full, within every limit."""
    return np.array([not one.short and all(value <= 0 for value in one.violation) for one in told], bool)


def _candidates(
    simulator: Simulator, space: Space, rng: np.random.Generator, known: Rows, seen: Floats, scores: Scores
) -> tuple[Rows, list[Expected]]:
    """Different settings with what is expected of each: some from anywhere, some near the most promising."""
    rows, found = _expected(simulator, space, space.draw(rng, 4 * _DRAWN), _DRAWN)
    if not found:
        return rows, found
    mean, _ = scored(found, scores)
    near = [space.rows_of_points(rows.unit[np.argsort(-mean, kind="stable")[:3]])]
    near += [space.rows_of_points(known.unit[np.argsort(-seen, kind="stable")[:2]])]
    parents = space.rows_of_points(np.vstack([one.unit for one in near]))
    close = around(space, rng, parents, np.arange(len(parents)), _NEAR)
    more, told = _expected(simulator, space, close, _NEAR)
    return space.rows_of_points(np.vstack((rows.unit, more.unit))), [*found, *told]


def _expected(simulator: Simulator, space: Space, drawn: Rows, most: int) -> tuple[Rows, list[Expected]]:
    """Of the first different rows, up to `most`, those that can be replayed."""
    _, first = np.unique(space.features(drawn), axis=0, return_index=True)
    places: list[int] = []
    found: list[Expected] = []
    for i in np.sort(first)[:most]:
        one = simulator.expects(space.setting(drawn, int(i)))
        if one is not None:
            places.append(int(i))
            found.append(one)
    return space.rows_of_points(drawn.unit[places]), found


def _taken(space: Space, rows: Rows, measured: Sequence[Setting], pending: Sequence[Setting]) -> npt.NDArray[np.bool_]:
    """Rows that were measured, and those near a trial under way."""
    x = space.features(rows)
    out = np.zeros(len(rows), bool)
    for settings, apart in ((measured, 0.0), (pending, _APART)):
        if settings:
            known = space.features(space.rows_of(list(settings)))
            out |= (((x[:, None, :] - known[None, :, :]) ** 2).sum(axis=2) <= apart).any(axis=1)
    return out
