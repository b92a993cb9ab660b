"""Answers of the predictor that the search asks for again and again, each computed once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from controlplane.model.plans import PlanRequest, Prediction, Role
from tuner.serving.planner.bounds import ShapeBounds
from tuner.serving.planner.load import Draws
from tuner.serving.planner.pieces import Deployment
from tuner.serving.planner.redrawn import Redrawn, redraws, spread_of
from tuner.serving.planner.shape import Shape, Unit
from tuner.serving.planner.static import Static, limits
from tuner.serving.planner.verdict import broken

# Candidates that are equals by the objective are ordered by the load they are expected to carry: this much more than the
# share of the static limit that the best finished one reached. Smaller would miss better equals, larger builds tables.
_HOPE = 1.1


@dataclass(frozen=True, slots=True)
class Verdict:
    """One replica at one load. `unit` holds the first scheduler settings that keep the promise; else `broken` says what
    the engine's usual ones break."""

    unit: Unit | None
    broken: str = ""


@dataclass(slots=True)
class Evaluator(ShapeBounds):
    """One planning question's memo."""

    replays: int = 0
    _share: float | None = None
    _verdicts: dict[tuple[object, ...], Verdict] = field(default_factory=dict)
    _checks: dict[tuple[object, ...], str | None] = field(default_factory=dict)
    _fails_from: dict[tuple[object, ...], float] = field(default_factory=dict)
    _predictions: dict[tuple[object, ...], Prediction] = field(default_factory=dict)
    _redraws: list[tuple[PlanRequest, Draws]] | None = None

    @property
    def load_unit(self) -> str:
        """What a load counts."""
        return "clients" if self.closed else "requests/s"

    @property
    def asked(self) -> float:
        """The whole deployment's load: requests per second, or clients."""
        if self.draws.clients is not None:
            return float(self.draws.clients)
        assert self.draws.rate_per_second is not None
        return self.draws.rate_per_second

    def learn(self, share: float) -> None:
        """Told what share of its static limit a finished deployment carries."""
        if share > 0 and not self.closed:  # clients without a limit to TPOT have no static limit to speak of
            self._share = max(self._share or 0.0, share)

    def expected(self, shape: Shape, *, sketched: bool) -> float:
        """Share of a static limit that a deployment is expected to carry: a little more than the best seen so far; the
        whole before anything was seen. Optimism of sketches is taken back."""
        share = 1.0 if self._share is None else min(1.0, self._share * _HOPE)
        return share * self.optimism(shape)[1] if sketched else share

    def keeps(self, unit: Unit, role: Role, load: float) -> bool:
        """Whether one replica keeps the promise at this load."""
        static = next(static for one, static in self.tabled(unit.shape) if one.key == unit.key)
        return self._check(unit, static, role, load) is None

    def verdict(self, shape: Shape, role: Role, load: float) -> Verdict:
        """Whether some scheduler settings keep the promise at this load of one replica."""
        key = (*shape.key, role, load)
        if key not in self._verdicts:
            said = ""
            found: Unit | None = None
            for unit, static in self.tabled(shape):
                wrong = self._check(unit, static, role, load)
                if wrong is None:
                    found = unit
                    break
                said = said or wrong
            self._verdicts[key] = Verdict(found, said)
            if found is None:
                place = (*shape.key, role)
                self._fails_from[place] = min(load, self._fails_from.get(place, math.inf))
        return self._verdicts[key]

    def surely_fails(self, shape: Shape, role: Role, load: float) -> bool:
        """Whether a load as low as this was seen to fail with all settings."""
        return load >= self._fails_from.get((*shape.key, role), math.inf)

    def best(self, shape: Shape, role: Role, load: float) -> tuple[Unit, float]:
        """The settings that carry most, and how much, given that some keep the promise at `load`. Others are asked only
        whether they carry more than the best so far."""
        found, index = self.verdict(shape, role, load).unit, int(np.searchsorted(self.loads, load, side="right")) - 1
        assert found is not None, "asked only where some settings keep the promise"
        most = load
        for unit, static in self.tabled(shape):
            last = self._last(unit, static, role, index)
            if last > index:
                found, index, most = unit, last, float(self.loads[last])
        return found, most

    def predict(self, deployment: Deployment) -> Prediction:
        """The whole deployment under the asked traffic."""
        key = deployment.key
        if key not in self._predictions:
            self.replays += 1
            self._predictions[key] = self.pieces.predict(deployment, self.request, self.draws)
        return self._predictions[key]

    def redrawn(self, deployment: Deployment) -> Redrawn:
        """Whether the deployment keeps the promise also where the same traffic falls differently; stops at the first draw
        that breaks it."""
        if self._redraws is None:
            in_turns = self.request.routing.picks_by != "random"
            self._redraws = redraws(self.request, self.draws, in_turns=in_turns)
        found = [self.predict(deployment)]
        wrong: str | None = None
        for request, draws in self._redraws:
            self.replays += 1
            found.append(self.pieces.predict(deployment, request, draws))
            wrong = self.broken(found[-1])
            if wrong is not None:
                wrong = f"{wrong}; one draw of the traffic keeps it, draw {len(found)} of the same traffic does not"
                break
        return Redrawn(broken=wrong, replays=len(found), spread=spread_of(found, self.request.slo))

    def broken(self, prediction: Prediction) -> str | None:
        """The first limit of the SLO that the whole deployment's replay breaks; None when it keeps all."""
        slo = self.request.slo
        if prediction.e2e_ms.mean is None:
            return "no request was answered"
        for name, target, values in (
            ("TTFT", slo.ttft_ms, prediction.ttft_ms),
            ("TPOT", slo.tpot_ms, prediction.tpot_ms),
        ):
            for point, limit in limits(target):
                value = getattr(values, point)
                if value is not None and value > limit:
                    return f"{name} {point} of the whole deployment is {value:,.1f} ms, the SLO is {limit:g} ms"
        return None

    def _check(self, unit: Unit, static: Static, role: Role, load: float) -> str | None:
        # the same engine in another pool gives the same replay
        key = (unit.shape.case, unit.shape.pool.power_cap_w, unit.scheduler, role, load)
        if key not in self._checks:
            said = static.fails(self.request.slo, role, load, closed=self.closed)
            if said is None:
                self.replays += 1
                outcome = self.pieces.replica(unit, role, self.draws, load, static)
                said = broken(outcome, self.request.slo, ttft=role != "decode", tpot=role != "prefill")
            self._checks[key] = said
        return self._checks[key]

    def _last(self, unit: Unit, static: Static, role: Role, start: int) -> int:
        """The last load of the grid that passes, `start` when the next one after it already fails: then one replay."""
        loads = self.loads
        most = static.limit(self.request.slo, role, closed=self.closed)
        low, high = start, min(int(np.searchsorted(loads, most, side="right")), len(loads))
        if low + 1 >= high or self._check(unit, static, role, float(loads[low + 1])) is not None:
            return start
        low += 1
        while high - low > 1:
            middle = (low + high) // 2
            if self._check(unit, static, role, float(loads[middle])) is None:
                low = middle
            else:
                high = middle
        return low
