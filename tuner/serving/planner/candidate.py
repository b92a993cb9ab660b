"""One way to deploy: which shapes play which roles, and how few replicas of each keep the promise.

A candidate starts with an optimistic bound and is refined step by step: sketch, table, replays, whole deployment. Every
step can only lower its rank, so the search may stop when a finished candidate stands before all others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from controlplane.model.plans import Prediction, Role
from tuner.serving.planner.counts import cheapest_first, limits_of
from tuner.serving.planner.evaluator import Evaluator
from tuner.serving.planner.pieces import Deployment, Group
from tuner.serving.planner.redrawn import Redrawn
from tuner.serving.planner.shape import Shape
from tuner.serving.planner.shortage import needs
from tuner.serving.planner.worth import cost_of, price_of, too_many_watts

Rank = tuple[float, float]  # (asked load per objective unit, capacity per objective unit); larger is better
State = Literal["sketched", "tabled", "done", "lost"]
_WINDOW = 96  # replica counts of one part that are looked at above the least that could do


@dataclass(frozen=True, slots=True)
class Part:
    """A shape and its role."""

    role: Role
    shape: Shape


@dataclass(slots=True, kw_only=True)
class Candidate:
    """See the module. `advisory`: why this installation cannot run it; None when it can."""

    parts: tuple[Part, ...]
    evaluator: Evaluator
    advisory: str | None = None
    state: State = "sketched"
    rank: Rank = (math.inf, math.inf)
    reason: str = ""
    message: str = ""
    deployment: Deployment | None = None
    prediction: Prediction | None = None
    capacity: float | None = None  # largest load of the deployment, by its replicas' goodput
    redrawn: Redrawn | None = None  # how the finished one stands where the traffic falls differently
    _vectors: Iterator[tuple[float, tuple[int, ...]]] = field(default_factory=lambda: iter(()))
    _now: tuple[int, ...] = ()
    _limits: tuple[float, ...] = ()
    _need: int = 0  # fewest replicas that could carry the load together
    _asked: float = 0.0
    _tried: bool = False
    _counts_cost: float = 1.0

    @property
    def key(self) -> tuple[object, ...]:
        """Total order that does not depend on hashing."""
        return tuple((part.role, *part.shape.key) for part in self.parts)

    @property
    def label(self) -> str:
        """The shapes with their roles, without replicas."""
        if self.deployment is not None:
            return self.deployment.label
        named = ((part.shape.label, "" if part.role == "aggregated" else f" {part.role}") for part in self.parts)
        return " + ".join(f"{shape}{role}" for shape, role in named)

    def tentative(self) -> Deployment:
        """The counts last looked at (one replica each before that), with the engine's usual settings."""
        counts = self._now or tuple(1 for _ in self.parts)
        return Deployment(
            groups=tuple(
                Group(role=part.role, unit=self.evaluator.usual(part.shape), replicas=count)
                for part, count in zip(self.parts, counts, strict=True)
            )
        )

    @property
    def replayed(self) -> bool:
        """Whether the replay was asked about it."""
        return self._tried

    @property
    def reach(self) -> float:
        """Load that its pools' worth of replicas would carry by the bounds; for ordering only."""
        if self.reason == "NoStepTimes":
            return 0.0
        most = [self.evaluator.most(part.shape) for part in self.parts]
        loads = [self.evaluator.raw_rate(part.shape, part.role) for part in self.parts]
        if self.parts[0].role == "aggregated":
            return sum(most) * min(loads)
        return min(count * load for count, load in zip(most, loads, strict=True))

    def largest(self) -> Deployment | None:
        """As many replicas as pools and budgets let; None for none."""
        counts = self.largest_counts()
        if counts is None:
            return None
        self._now = counts
        return self.tentative()

    def largest_counts(self) -> tuple[int, ...] | None:
        """Replicas of each part then, shared evenly where roles meet in one pool."""
        shares: dict[str, int] = {}
        for part in self.parts:
            shares[part.shape.pool.name] = shares.get(part.shape.pool.name, 0) + 1
        most = [self.evaluator.most(part.shape) // shares[part.shape.pool.name] for part in self.parts]
        for percent in range(100, 0, -5):
            counts = tuple(max(1, count * percent // 100) for count in most)
            if self._cost(counts) is not None:
                return counts
        return None

    def start(self) -> None:
        """The optimistic bound. Raises Unsupported where not even a roofline is known."""
        self._restart()

    def refine(self) -> None:
        """One step. Afterwards `rank` is lower or the same, or the state is done or lost."""
        if self.state == "sketched":
            for part in self.parts:
                wrong = self.evaluator.why_unsupported(part.shape)
                if wrong is not None:
                    self.give_up("NoStepTimes", wrong)
                    return
            self.state = "tabled"
            self._restart()
        elif self.state == "tabled":
            self._try()

    def _try(self) -> None:
        """Replays of single replicas at the present counts; then of the whole deployment."""
        self._tried = True
        loads = self.shares(self._now)
        for part, load in zip(self.parts, loads, strict=True):
            verdict = self.evaluator.verdict(part.shape, part.role, load)
            if verdict.unit is None:
                self.message = verdict.broken
                self._next()
                return
        best = [self.evaluator.best(part.shape, part.role, load) for part, load in zip(self.parts, loads, strict=True)]
        groups = tuple(
            Group(role=part.role, unit=unit, replicas=count)
            for part, (unit, _), count in zip(self.parts, best, self._now, strict=True)
        )
        carried = [most for _, most in best]
        if self.parts[0].role == "aggregated":
            capacity = min(carried) * sum(self._now)
        else:
            capacity = min(most * count for most, count in zip(carried, self._now, strict=True))
        self._finish(Deployment(groups=groups), capacity)

    def _finish(self, deployment: Deployment, capacity: float) -> None:
        prediction = self.evaluator.predict(deployment)
        wrong = self.evaluator.broken(prediction)
        if wrong is None and self.evaluator.request.allowed.max_watts is not None:
            wrong = too_many_watts(prediction, self.evaluator.request.allowed.max_watts)
        again = None if wrong is not None else self.evaluator.redrawn(deployment)
        if again is not None:
            wrong = again.broken
        if wrong is not None:
            self.message = wrong
            self._next()
            return
        cost = cost_of(deployment, self.evaluator.request.objective, prediction)
        if cost is None:
            self.give_up(
                "ObjectiveUnknown",
                f"{self.evaluator.request.objective} needs a number that is not known for {deployment.label}",
            )
            return
        if len(self.parts) == 1:
            self.evaluator.learn(capacity / (self._now[0] * self._limits[0]))
        self.deployment, self.prediction, self.capacity = deployment, prediction, capacity
        self.redrawn = again
        self.state = "done"
        self.rank = (min(self.rank[0], self.evaluator.asked / cost), capacity / cost)

    def _restart(self) -> None:
        self._limits = tuple(self.evaluator.limit(part.shape, part.role) for part in self.parts)
        for part, limit in zip(self.parts, self._limits, strict=True):
            if limit <= 0:
                wrong = self.evaluator.why_no_load(part.shape, part.role)
                self.give_up("SloUnreachable", f"{part.shape.label}: {wrong}")
                return
        self._vectors = self._all_vectors()
        self._next(f"one replica carries at most {min(self._limits):.3g} {self.evaluator.load_unit}")

    def _next(self, otherwise: str = "") -> None:
        """The next cheapest counts, which lowers the rank; lost when there are none."""
        found = next((item for item in self._vectors if not self._surely_fails(item[1])), None)
        if found is None:
            shapes = [part.shape for part in self.parts]
            said = needs(
                shapes,
                self._asked,
                self._limits[0],
                self.evaluator.most(shapes[0]),
                self.evaluator.request.allowed,
                replayed=self._tried,
            )
            self.give_up("PoolTooSmall", f"{self.message or otherwise}; {said}")
            return
        cost, self._now = found
        self._counts_cost = cost
        # The second figure only orders equals, so it is what is expected and not a bound.
        self.rank = (min(self.rank[0], self._asked / cost), self._bound_capacity() / cost)

    def new_tables(self) -> int:
        """Step tables that its next step would ask for as the first."""
        return self.evaluator.new_tables([part.shape for part in self.parts]) if self.state == "sketched" else 0

    def reconsider(self) -> bool:
        """Whether what is expected of it has fallen since it was ranked (others turned out to carry less)."""
        if self.state not in ("sketched", "tabled"):
            return False
        if self.state == "sketched":
            limits = tuple(self.evaluator.limit(part.shape, part.role) for part in self.parts)
            if any(now < before for now, before in zip(limits, self._limits, strict=True)):
                self._restart()
                return True
        expected = self._bound_capacity() / self._counts_cost
        if expected >= self.rank[1] * (1 - 1e-12):
            return False
        self.rank = (self.rank[0], expected)
        return True

    def _surely_fails(self, counts: tuple[int, ...]) -> bool:
        fails = any(
            self.evaluator.surely_fails(part.shape, part.role, load)
            for part, load in zip(self.parts, self.shares(counts), strict=True)
        )
        if fails and self.parts[0].role == "aggregated":
            self._need = max(self._need, sum(counts) + 1)  # the shares depend on the number of replicas alone
        return fails

    def _bound_capacity(self) -> float:
        limits = [
            limit
            * self.evaluator.expected(part.shape, sketched=self.state == "sketched")
            / math.sqrt(part.shape.case.pipeline_parallel)
            for part, limit in zip(self.parts, self._limits, strict=True)
        ]
        if self.parts[0].role == "aggregated":
            return sum(self._now) * min(limits)
        return min(count * limit for count, limit in zip(self._now, limits, strict=True))

    def shares(self, counts: tuple[int, ...]) -> list[float]:
        """Load of one replica of each part: an equal share, as a plain Service gives; a role has the whole to itself."""
        if self.parts[0].role == "aggregated":
            share = self.evaluator.asked / sum(counts)
            loads = [share for _ in counts]
        else:
            loads = [self.evaluator.asked / count for count in counts]
        return [math.ceil(load) for load in loads] if self.evaluator.closed else loads

    def _all_vectors(self) -> Iterator[tuple[float, tuple[int, ...]]]:
        """Replica counts that the bounds and budgets let pass, cheapest first."""
        self._asked = self.evaluator.asked
        asked = self._asked
        together = self.parts[0].role == "aggregated"
        ranges: list[range] = []
        for part, limit in zip(self.parts, self._limits, strict=True):
            most = self.evaluator.most(part.shape)
            least = 1 if together and len(self.parts) > 1 else max(1, math.ceil(asked / limit - 1e-9))
            ranges.append(range(least, min(most, least + _WINDOW) + 1))
        self._need = math.ceil(asked / min(self._limits) - 1e-9) if together else 0
        units = tuple(float(part.shape.units) for part in self.parts)
        money = tuple(part.shape.units * (part.shape.pool.price_per_accelerator_hour or 0.0) for part in self.parts)
        watts = [part.shape.units * self.evaluator.pieces.least_watts(part.shape) for part in self.parts]
        order, budgets = limits_of(self.evaluator.request, units, money, tuple(watts))
        return cheapest_first(ranges, order, budgets, lambda: self._need, self._cost)

    def _cost(self, counts: tuple[int, ...]) -> float | None:
        """The objective's unit for these counts; None where a budget or a pool forbids them."""
        shapes = [part.shape for part in self.parts]
        return price_of(shapes, counts, self.evaluator.request, self.evaluator.pieces.least_watts)

    def give_up(self, reason: str, message: str) -> None:
        """Takes it out of the search."""
        self.state, self.reason, self.message = "lost", reason, message
        self.rank = min(self.rank, (0.0, 0.0))
