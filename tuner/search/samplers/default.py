"""The default sampler: expected improvement where it should work, a look at the edge now and then, and no more than that.

An engine's best configuration often lies beside one that runs out of memory, and every failure costs a start. So two
models learn side by side: the objective (log of it, Gaussian process) from what was measured, and p(ok) from what
failed. An ask takes the largest expected improvement among candidates with p(ok) above a floor; a small share looks
lower, so that a wrong belief about the edge does not last. When no candidate promises more than noise, the two best are
measured again: a pick among lucky trials costs more than another look. Otherwise no setting is asked twice: noise makes
one look promising for ever, and where there are few settings it would be all that is asked.

Known limits (margins of the space) serve twice: far on the wrong side they are not measured, and near it they are a
feature of p(ok), so a coarse memory model helps without being believed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from controlplane.model.ports import Sampler
from controlplane.model.tuning import Proposal, Setting, Told
from tuner.search.candidates import around, covering
from tuner.search.edge import edge_of, ok_of
from tuner.search.feasibility import Feasibility
from tuner.search.gaussian import Averaged, Regression, cumulative, fit, fit_averaged
from tuner.search.history import History, within
from tuner.search.objective import scores_of, weights_of
from tuner.search.one_thread import one_thread
from tuner.search.question import Question
from tuner.search.samplers.followed import Followed, Terms, begin, follow
from tuner.search.samplers.settings import WITH_MARGINS, DefaultSettings
from tuner.search.space import Rows, Space
from tuner.search.transfer import Beside, CheapLevel, cheap_level

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


@dataclass(slots=True)
class DefaultSampler:
    """Two models and a choice between their wishes."""

    question: Question
    settings: DefaultSettings | None = None
    _history: History = field(default_factory=History)
    _chosen: DefaultSettings = field(init=False)
    _cheap: CheapLevel | None = field(init=False)

    def __post_init__(self) -> None:
        self._chosen = self.settings or (WITH_MARGINS if self.space.margins else DefaultSettings())
        with one_thread():
            self._cheap = cheap_level(self.space, self.question.objectives, self.question.cheap)

    @property
    def space(self) -> Space:
        """What is searched."""
        return self.question.space

    def tell(self, told: Told) -> None:
        """A trial was asked, or its result is known."""
        self._history.tell(told)

    def ask(self, number: int) -> Proposal:
        """The configuration of trial `number`."""
        given = self.question.given(number)
        if given is not None:
            return given
        with one_thread():
            return self._ask(number)

    def _ask(self, number: int) -> Proposal:
        rng = np.random.default_rng((self.question.seed, number))
        place = number - len(self.question.first)
        measured = self._history.ok()
        feasibility = edge_of(self.space, self._history)
        followed = self._follow(rng, place, feasibility)
        if followed.proposal is not None:
            return followed.proposal
        # What a simulator that is believed does not find, half of the covering start is enough to find.
        if place < self._chosen.start // (2 if followed.believed else 1):
            return self._cover(rng, place, feasibility, followed.note)
        if len(measured) < 2:
            return self._toward_what_works(rng, feasibility)
        scores = scores_of(measured, self.question.objectives, weights_of(len(self.question.objectives), rng))
        return self._improve(rng, measured, scores, feasibility)

    def recommend(self) -> Setting | None:
        """The measured configuration with the best lower bound: its mean less one deviation, both of the model."""
        with one_thread():
            return self._recommend()

    def _recommend(self) -> Setting | None:
        measured = [told for told in self._history.ok() if all(value <= 0 for value in told.violation)]
        if all(told.short for told in measured):
            return None
        scores = scores_of(measured, self.question.objectives, weights_of(len(self.question.objectives), None))
        rows = self.space.rows_of([told.setting for told in measured])
        x = self.space.features(rows)
        kept = within(scores)
        mean, deviation = fit_averaged(x[kept], scores[kept], self._chosen.pairs).at(x)
        # Those that were cut short say where not to look; what is handed over was measured in full.
        full = np.array([not told.short for told in measured])
        return measured[int(np.argmax(np.where(full, mean - deviation, -np.inf)))].setting

    def _follow(self, rng: np.random.Generator, place: int, feasibility: Feasibility | None) -> Followed:
        """What a fitted simulator would have measured next, if there is one that is worth it."""
        simulator = self.question.simulator
        if simulator is None:
            return Followed(None)
        if not place and not self._history.settings():
            return begin(simulator, self.question.cheap_note)
        terms = Terms(
            ok=lambda rows: self._ok(rows, feasibility),
            pending=self._history.pending(),
            floor=self._chosen.floor,
            failure_cost=self._chosen.failure_cost,
            least_gain=self._chosen.least_gain,
            pairs=self._chosen.pairs,
        )
        return follow(simulator, self.space, rng, self._history.ok(), terms)

    def _cover(
        self, rng: np.random.Generator, place: int, feasibility: Feasibility | None, simulated: str = ""
    ) -> Proposal:
        """The next point of the covering start; where it hardly works, one far from all others that should."""
        start = covering(self.space, self._chosen.start, self.question.seed)
        if self._cheap is not None and place < self._chosen.start // 2:
            drawn = self.space.draw(np.random.default_rng((self.question.seed, 0xC4EA)), self._chosen.candidates)
            likely = self._cheap.best(drawn, self._chosen.start // 2)
            if place < len(likely):
                return Proposal(
                    setting=self.space.setting(drawn, likely[place]), reason=self._noted("best of the cheap level")
                )
        asked = self._among(start, self._history.settings())[place]
        likely_ok = place < self._chosen.start // 2 or self._ok(start, feasibility)[place] >= self._chosen.start_floor
        if likely_ok and not asked:
            reason = (
                f"covers the space ({simulated})" if simulated else self._noted("covers the space", first=not place)
            )
            return Proposal(setting=self.space.setting(start, place), reason=reason[:512])
        rows = self.space.draw(rng, self._chosen.candidates)
        ok = self._ok(rows, feasibility)
        x, known = self.space.features(rows), self.space.features(self.space.rows_of(self._history.settings()))
        apart = ((x[:, None, :] - known[None, :, :]) ** 2).sum(axis=2).min(axis=1)
        i = int(np.argmax(np.where(ok >= self._chosen.floor, apart, ok - 1.0)))
        return Proposal(setting=self.space.setting(rows, i), reason=f"covers what should work, p(ok) {ok[i]:.2f}")

    def _noted(self, reason: str, *, first: bool = True) -> str:
        """With what is known of the cheap level, where that is news."""
        note = self.question.cheap_note if first else ""
        return f"{reason} ({note})"[:512] if note else reason

    def _improve(
        self, rng: np.random.Generator, measured: list[Told], scores: Floats, feasibility: Feasibility | None
    ) -> Proposal:
        kept = within(scores)
        known = self.space.rows_of([measured[i].setting for i in kept])
        beside = Beside.of(self._cheap, known, scores[kept])
        x, y = self.space.features(known), scores[kept] - beside.at(known)
        model = fit_averaged(x, y, self._chosen.pairs)
        pending = self._history.pending()
        if pending:
            # A trial under way is believed to give what is expected of it, so that the next ask looks elsewhere.
            under_way = self.space.features(self.space.rows_of(pending))
            x = np.vstack((x, under_way))
            y = np.concatenate((y, model.at(under_way)[0]))
            model = fit_averaged(x, y, self._chosen.pairs)
        believed = model.at(self.space.features(known))[0] + beside.at(known)
        holds = self._holds(measured, kept)
        best = float(np.max(np.where(holds, believed, -np.inf))) if holds.any() else float(np.min(believed))
        edge = bool(rng.random() < self._chosen.edge_share)
        floor = self._chosen.edge_floor if edge else self._chosen.floor
        limits = self._limit_models(measured, kept)
        tops = np.argsort(-believed, kind="stable")[:5]
        rows = self._join(self.space.draw(rng, self._chosen.candidates), around(self.space, rng, known, tops, 96))
        gain, ok = self._judge(rows, model, beside, best, feasibility, limits)
        for width in (0.06, 0.02):
            worth = self._worth(gain, ok, floor)
            near = around(self.space, rng, rows, np.argsort(-worth, kind="stable")[:3], 48, width)
            if not len(near):
                continue
            near_gain, near_ok = self._judge(near, model, beside, best, feasibility, limits)
            rows = self._join(rows, near)
            gain, ok = np.concatenate((gain, near_gain)), np.concatenate((ok, near_ok))
        new = ~self._among(rows, [*(measured[int(i)].setting for i in kept), *pending])
        worth = np.where(new, self._worth(gain, ok, floor), -np.inf)
        i, where = int(np.argmax(worth)), "edge, " if edge else ""
        if worth[i] < self._chosen.least_gain and not edge:
            again = self._again(measured, kept, believed, holds)
            if again is not None:
                return again
            # The best are known well and nothing near them is better: what the models are least sure of, then.
            floor, where = self._chosen.doubt_floor, "the best are known well, elsewhere: "
            i = int(np.argmax(np.where((ok >= floor) & (new | ~new.any()), gain * ok, -np.inf)))
        if ok[i] < floor:
            i = int(np.argmax(ok))
            return Proposal(setting=self.space.setting(rows, i), reason=f"safest found, p(ok) {ok[i]:.2f}")
        return Proposal(
            setting=self.space.setting(rows, i), reason=f"{where}expected gain {gain[i] * 100:.2g} %, p(ok) {ok[i]:.2f}"
        )

    def _among(self, rows: Rows, settings: list[Setting]) -> Bools:
        """Which rows are one of these settings."""
        if not settings:
            return np.zeros(len(rows), bool)
        x, known = self.space.features(rows), self.space.features(self.space.rows_of(settings))
        return np.asarray((x[:, None, :] == known[None, :, :]).all(axis=2).any(axis=1))

    def _worth(self, gain: Floats, ok: Floats, floor: float) -> Floats:
        """What an ask is expected to bring: the gain where it works, less what a failure costs."""
        return np.where(ok >= floor, gain * ok - self._chosen.failure_cost * (1.0 - ok), -np.inf)

    def _again(self, measured: list[Told], kept: Indices, believed: Floats, holds: Bools) -> Proposal | None:
        """The two best, whichever was measured less often; None where both were often enough."""
        order = np.argsort(-np.where(holds, believed, -np.inf), kind="stable")
        told = [one for one in (measured[int(kept[i])] for i in order) if not one.short]
        if not told:
            return None
        distinct: list[Setting] = []
        for one in told:
            if one.setting not in distinct:
                distinct.append(one.setting)
            if len(distinct) == 2:
                break
        pending = self._history.pending()

        def times(setting: Setting) -> int:
            return sum(one.setting == setting for one in measured) + sum(one == setting for one in pending)

        again = min(distinct, key=times)
        if times(again) >= self._chosen.times:
            return None
        return Proposal(setting=again, reason="nothing promises more than noise: measured again", full=True)

    def _ok(self, rows: Rows, feasibility: Feasibility | None) -> Floats:
        return ok_of(self.space, rows, feasibility)

    def _judge(
        self,
        rows: Rows,
        model: Averaged,
        beside: Beside,
        best: float,
        feasibility: Feasibility | None,
        limits: list[Regression],
    ) -> tuple[Floats, Floats]:
        """Expected improvement (of log score), and the probability that it works and keeps every limit."""
        x = self.space.features(rows)
        mean, deviation = model.at(x)
        z = (mean + beside.at(rows) - best) / deviation
        gain = deviation * (z * cumulative(z) + np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi))
        for limit in limits:
            violation, spread = limit.at(x)
            gain = gain * cumulative(-violation / spread)
        return gain, self._ok(rows, feasibility)

    def _limit_models(self, measured: list[Told], kept: Indices) -> list[Regression]:
        rows = [measured[int(i)] for i in kept]
        count = min((len(told.violation) for told in rows), default=0)
        x = self.space.features(self.space.rows_of([told.setting for told in rows]))
        values = [np.array([told.violation[j] for told in rows]) for j in range(count)]
        # A limit that nobody ever came near says nothing about where to look.
        return [fit(x, value) for value in values if (value > 0).any()]

    def _holds(self, measured: list[Told], kept: Indices) -> Bools:
        told = [measured[int(i)] for i in kept]
        return np.array([not one.short and all(value <= 0 for value in one.violation) for one in told], bool)

    def _toward_what_works(self, rng: np.random.Generator, feasibility: Feasibility | None) -> Proposal:
        rows = self.space.draw(rng, self._chosen.candidates)
        ok = self._ok(rows, feasibility)
        i = int(np.argmax(ok))
        return Proposal(setting=self.space.setting(rows, i), reason=f"little has worked yet: safest, p(ok) {ok[i]:.2f}")

    def _join(self, a: Rows, b: Rows) -> Rows:
        return self.space.rows_of_points(np.vstack((a.unit, b.unit)))


def make(question: Question) -> Sampler:
    """The registry's entry."""
    return DefaultSampler(question)
