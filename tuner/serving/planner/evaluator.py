"""Answers of the predictor that the search asks for again and again, each computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from controlplane.model.errors import TrimtabError
from controlplane.model.plans import PlanRequest, Prediction, Role
from tuner.serving.planner.load import Draws
from tuner.serving.planner.pieces import Deployment, Pieces, Room
from tuner.serving.planner.shape import Shape, Unit
from tuner.serving.planner.static import Static, estimate, limits
from tuner.serving.planner.verdict import broken
from tuner.serving.step.table import Floats, StepTable

# Loads at which a replica's goodput is looked for: 2 % apart, the same for every deployment and every SLO, so that the
# bisection takes the same turns and a looser SLO can only go further.
_RATES: Floats = 1e-3 * 1.02 ** np.arange(840, dtype=np.float64)
_CLIENTS: Floats = np.unique(np.round(1.02 ** np.arange(582)))
# A measured engine may be faster than the roofline thinks; bounds count on it being this much faster.
SKETCH_OPTIMISM = 0.6


@dataclass(frozen=True, slots=True)
class Verdict:
    """One replica at one load. `unit` holds the first scheduler settings that keep the promise; else `broken` says what
    the best of them breaks."""

    unit: Unit | None
    broken: str = ""


@dataclass(slots=True)
class Evaluator:
    """One planning question's memo."""

    request: PlanRequest
    draws: Draws
    pieces: Pieces
    longest_tokens: int
    replays: int = 0
    tables: int = 0
    _statics: dict[tuple[object, ...], list[tuple[Unit, Static]]] = field(default_factory=dict)
    _sketches: dict[tuple[str, ...], list[tuple[Unit, Static]]] = field(default_factory=dict)
    _rooms: dict[tuple[object, ...], Room] = field(default_factory=dict)
    _failed: dict[tuple[str, ...], str] = field(default_factory=dict)
    _verdicts: dict[tuple[object, ...], Verdict] = field(default_factory=dict)
    _checks: dict[tuple[object, ...], str | None] = field(default_factory=dict)
    _predictions: dict[tuple[object, ...], Prediction] = field(default_factory=dict)

    @property
    def closed(self) -> bool:
        """Whether loads are clients instead of rates."""
        return self.draws.clients is not None

    @property
    def asked(self) -> float:
        """The whole deployment's load: requests per second, or clients."""
        if self.draws.clients is not None:
            return float(self.draws.clients)
        assert self.draws.rate_per_second is not None
        return self.draws.rate_per_second

    def room(self, shape: Shape) -> Room:
        """Memory with the engine's usual settings."""
        key = shape.key
        if key not in self._rooms:
            scheduler = self.pieces.schedulers(shape)[0]
            self._rooms[key] = self.pieces.room(shape, scheduler, self.longest_tokens)
        return self._rooms[key]

    def sketched(self, shape: Shape) -> list[tuple[Unit, Static]]:
        """Bounds from the roofline, made optimistic. Raises Unsupported."""
        if shape.key not in self._sketches:
            self._sketches[shape.key] = self._estimates(shape, _faster(self.pieces.sketch(shape), SKETCH_OPTIMISM))
        return self._sketches[shape.key]

    def has_table(self, shape: Shape) -> bool:
        """Whether the shape's real table was asked for already."""
        return shape.key in self._statics

    def tabled(self, shape: Shape) -> list[tuple[Unit, Static]]:
        """Bounds from the table that replays use. Raises Unsupported."""
        if shape.key not in self._statics:
            self.tables += 1
            self._statics[shape.key] = self._estimates(shape, self.pieces.table(shape))
        return self._statics[shape.key]

    def bounds(self, shape: Shape) -> list[tuple[Unit, Static]]:
        """The best bounds there are without building a table."""
        return self._statics[shape.key] if self.has_table(shape) else self.sketched(shape)

    @property
    def load_unit(self) -> str:
        """What a load counts."""
        return "clients" if self.closed else "requests/s"

    def limit(self, shape: Shape, role: Role, *, replayed: bool = False) -> float:
        """Largest load of one replica: what the static bounds let pass or, `replayed`, one step of the grid above what
        the replay carries. 0 when nothing passes."""
        if replayed:
            best = max((self.goodput(unit, role) for unit in self.units(shape)), default=0.0)
            return _above(self._loads, best) if best > 0 else 0.0
        return max((self._limit(static, role) for _, static in self.bounds(shape)), default=0.0)

    def raw_rate(self, shape: Shape, role: Role) -> float:
        """Requests per second one replica can compute, whatever the latency."""
        return max((static.most(role) for _, static in self.bounds(shape)), default=0.0)

    def usual(self, shape: Shape) -> Unit:
        """The shape with its engine's usual settings."""
        scheduler = self.pieces.schedulers(shape)[0]
        return Unit(shape=shape, scheduler=scheduler, max_model_len=self._max_model_len(shape, self.room(shape)))

    def units(self, shape: Shape) -> list[Unit]:
        """The shape with each of its scheduler settings."""
        return [unit for unit, _ in self.tabled(shape)]

    def keeps(self, unit: Unit, role: Role, load: float) -> bool:
        """Whether one replica keeps the promise at this load."""
        return self._check(unit, self._static(unit), role, load) is None

    def capacity(self, deployment: Deployment) -> float:
        """Largest load of a deployment by its replicas' goodput; equal shares, as a plain Service gives them."""
        loads = [(self.goodput(group.unit, group.role), group) for group in deployment.groups]
        if deployment.groups[0].role == "aggregated":
            return min(load for load, _ in loads) * sum(group.replicas for group in deployment.groups)
        return min(load * group.replicas for load, group in loads)

    def broken(self, prediction: Prediction) -> str | None:
        """The first limit of the SLO that the whole deployment's replay breaks; None when it keeps all."""
        slo = self.request.slo
        for name, target, values in (
            ("TTFT", slo.ttft_ms, prediction.ttft_ms),
            ("TPOT", slo.tpot_ms, prediction.tpot_ms),
        ):
            for point, limit in limits(target):
                value = float(getattr(values, point))
                if value > limit:
                    return f"{name} {point} of the whole deployment is {value:,.1f} ms, the SLO is {limit:g} ms"
        return None

    def why_no_load(self, shape: Shape, role: Role) -> str:
        """What the static bounds say against the smallest load."""
        for _, static in self.bounds(shape):
            said = self._static_fails(static, role, float(self._loads[0]))
            if said is not None:
                return said
        return "no load passes"

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
        return self._verdicts[key]

    def goodput(self, unit: Unit, role: Role) -> float:
        """Highest load of one replica that keeps the promise with these settings; 0 when none does."""
        static, loads = self._static(unit), self._loads
        low = _last(len(loads), lambda index: self._check(unit, static, role, float(loads[index])) is None)
        return float(loads[low]) if low >= 0 else 0.0

    def predict(self, deployment: Deployment) -> Prediction:
        """The whole deployment under the asked traffic."""
        key = deployment.key
        if key not in self._predictions:
            self.replays += 1
            self._predictions[key] = self.pieces.predict(deployment, self.request, self.draws)
        return self._predictions[key]

    def why_unsupported(self, shape: Shape, *, table: bool) -> str | None:
        """What the step model says against the shape; None when it has it. Building the table may take a while."""
        key = shape.key
        if key not in self._failed:
            try:
                _ = self.tabled(shape) if table else self.bounds(shape)
            except TrimtabError as error:
                self._failed[key] = str(error)
        return self._failed.get(key)

    def _check(self, unit: Unit, static: Static, role: Role, load: float) -> str | None:
        key = (*unit.key, role, load)
        if key not in self._checks:
            said = self._static_fails(static, role, load)
            if said is None:
                self.replays += 1
                outcome = self.pieces.replica(unit, role, self.draws, load)
                said = broken(outcome, self.request.slo, ttft=role != "decode", tpot=role != "prefill")
            self._checks[key] = said
        return self._checks[key]

    def _static_fails(self, static: Static, role: Role, load: float) -> str | None:
        slo = self.request.slo
        if role == "aggregated":
            return static.fails_closed(slo, load) if self.closed else static.fails(slo, load)
        return static.fails_prefill(slo, load) if role == "prefill" else static.fails_decode(slo, load)

    def _limit(self, static: Static, role: Role) -> float:
        """Bisection over the grid, as free as the static bounds are."""
        loads = self._loads
        low = _last(len(loads), lambda index: self._static_fails(static, role, float(loads[index])) is None)
        return _above(loads, float(loads[low])) if low >= 0 else 0.0

    @property
    def _loads(self) -> Floats:
        return _CLIENTS if self.closed else _RATES

    def _static(self, unit: Unit) -> Static:
        return next(static for one, static in self.tabled(unit.shape) if one.key == unit.key)

    def _estimates(self, shape: Shape, table: StepTable) -> list[tuple[Unit, Static]]:
        out = []
        for scheduler in self.pieces.schedulers(shape):
            room = self.room(shape)
            unit = Unit(shape=shape, scheduler=scheduler, max_model_len=self._max_model_len(shape, room))
            out.append((unit, estimate(shape, table, self.draws, scheduler, room.kv_tokens)))
        return out

    def _max_model_len(self, shape: Shape, room: Room) -> int | None:
        """A limit to the context where the model's whole one does not fit: the longest request, or what there is room
        for in steps of 1,024 tokens."""
        whole = shape.model.max_context_tokens
        if whole is None or whole <= room.kv_tokens:
            return None
        return max(self.longest_tokens, min(whole, int(room.kv_tokens * 0.9) // 1024 * 1024))


def _faster(table: StepTable, factor: float) -> StepTable:
    return replace(
        table,
        context_ms=table.context_ms * factor,
        decode_ms=table.decode_ms * factor,
        context_attention_ms=table.context_attention_ms * factor,
        decode_attention_ms=table.decode_attention_ms * factor,
    )


def _last(count: int, passes: Callable[[int], bool]) -> int:
    """Bisection for the last index that passes; -1 when none does. The turns depend on the answers alone."""
    low, high = -1, count
    while high - low > 1:
        middle = (low + high) // 2
        if passes(middle):
            low = middle
        else:
            high = middle
    return low


def _above(loads: Floats, load: float) -> float:
    """The next load of the grid: what was found passes below it."""
    return float(loads[min(int(np.searchsorted(loads, load, side="right")), len(loads) - 1)])
