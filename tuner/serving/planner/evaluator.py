"""Answers of the predictor that the search asks for again and again, each computed once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from controlplane.model.errors import TrimtabError
from controlplane.model.plans import PlanRequest, Prediction, Role
from tuner.serving.planner.load import Draws
from tuner.serving.planner.packing import most_replicas
from tuner.serving.planner.pieces import Deployment, Pieces, Room
from tuner.serving.planner.shape import Shape, Unit
from tuner.serving.planner.static import Static, estimates, limits
from tuner.serving.planner.verdict import broken
from tuner.serving.step.table import Floats, StepTable

# Loads at which a replica's goodput is looked for, 2 % apart and the same for every deployment and every SLO.
_RATES: Floats = 1e-3 * 1.02 ** np.arange(840, dtype=np.float64)
_CLIENTS: Floats = np.unique(np.round(1.02 ** np.arange(582)))
# A measured engine may be faster than the roofline thinks, so bounds take these shares of its times (context, decode).
# Least ratios of 61 dense and 76 MoE engines (three models, three accelerators, three engines) were 0.80, 0.88 and 0.43,
# 0.72; a little is left for what was not among them.
_DENSE_OPTIMISM = (0.78, 0.86)
_MOE_OPTIMISM = (0.40, 0.70)
# Candidates that are equals by the objective are ordered by the load they are expected to carry: this much more than the
# share of the static limit that the best finished one reached. Smaller would miss better equals, larger builds tables.
_HOPE = 1.1

Bounds = list[tuple[Unit, Static]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One replica at one load. `unit` holds the first scheduler settings that keep the promise; else `broken` says what
    the engine's usual ones break."""

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
    _tabled: dict[tuple[str, ...], Bounds] = field(default_factory=dict)
    _sketched: dict[tuple[str, ...], Bounds] = field(default_factory=dict)
    _rooms: dict[tuple[str, ...], Room] = field(default_factory=dict)
    _most: dict[tuple[str, ...], int] = field(default_factory=dict)
    _unsupported: dict[tuple[str, ...], str | None] = field(default_factory=dict)
    _share: float | None = None
    _verdicts: dict[tuple[object, ...], Verdict] = field(default_factory=dict)
    _checks: dict[tuple[object, ...], str | None] = field(default_factory=dict)
    _fails_from: dict[tuple[object, ...], float] = field(default_factory=dict)
    _predictions: dict[tuple[object, ...], Prediction] = field(default_factory=dict)

    @property
    def closed(self) -> bool:
        """Whether loads are clients instead of rates."""
        return self.draws.clients is not None

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
        return share * _optimism(shape)[1] if sketched else share

    def most(self, shape: Shape) -> int:
        """Replicas that the shape's pool takes when it has the pool to itself."""
        if shape.key not in self._most:
            self._most[shape.key] = most_replicas(shape)
        return self._most[shape.key]

    def room(self, shape: Shape) -> Room:
        """Memory with the engine's usual settings. Raises TrimtabError."""
        if shape.key not in self._rooms:
            usual = self.pieces.schedulers(shape)[0]
            self._rooms[shape.key] = self.pieces.room(shape, usual, self.longest_tokens)
        return self._rooms[shape.key]

    def usual(self, shape: Shape) -> Unit:
        """The shape with its engine's usual settings."""
        scheduler = self.pieces.schedulers(shape)[0]
        return Unit(shape=shape, scheduler=scheduler, max_model_len=self._max_model_len(shape, self.room(shape)))

    def why_unsupported(self, shape: Shape) -> str | None:
        """What the step model says against the shape; None when it has its table, which may take a while to build."""
        if shape.key not in self._unsupported:
            try:
                self._tabled[shape.key] = self._estimates(shape, self.pieces.table(shape))
                self._unsupported[shape.key] = None
            except TrimtabError as error:
                self._unsupported[shape.key] = str(error)
        return self._unsupported[shape.key]

    def tabled(self, shape: Shape) -> Bounds:
        """Each scheduler setting with its bounds from the table that replays use. Raises TrimtabError."""
        if shape.key not in self._tabled:
            self._tabled[shape.key] = self._estimates(shape, self.pieces.table(shape))
        return self._tabled[shape.key]

    def bounds(self, shape: Shape) -> Bounds:
        """The best bounds there are without building a table: its own, or the roofline's made optimistic. Raises
        TrimtabError."""
        if shape.key in self._tabled:
            return self._tabled[shape.key]
        if shape.key not in self._sketched:
            self._sketched[shape.key] = self._estimates(shape, _faster(self.pieces.sketch(shape), *_optimism(shape)))
        return self._sketched[shape.key]

    def limit(self, shape: Shape, role: Role) -> float:
        """Largest load of one replica that the static bounds let pass; 0 when none does."""
        slo = self.request.slo
        most = max((static.limit(slo, role, closed=self.closed) for _, static in self.bounds(shape)), default=0.0)
        return min(most, float(self._loads[-1]))

    def raw_rate(self, shape: Shape, role: Role) -> float:
        """Requests per second one replica can compute, whatever the latency."""
        return max((static.most(role) for _, static in self.bounds(shape)), default=0.0)

    def why_no_load(self, shape: Shape, role: Role) -> str:
        """What the static bounds say against the smallest load."""
        for _, static in self.bounds(shape):
            said = static.fails(self.request.slo, role, float(self._loads[0]), closed=self.closed)
            if said is not None:
                return said
        return "no load passes"

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
        found, index = self.verdict(shape, role, load).unit, int(np.searchsorted(self._loads, load, side="right")) - 1
        assert found is not None, "asked only where some settings keep the promise"
        most = load
        for unit, static in self.tabled(shape):
            last = self._last(unit, static, role, index)
            if last > index:
                found, index, most = unit, last, float(self._loads[last])
        return found, most

    def predict(self, deployment: Deployment) -> Prediction:
        """The whole deployment under the asked traffic."""
        key = deployment.key
        if key not in self._predictions:
            self.replays += 1
            self._predictions[key] = self.pieces.predict(deployment, self.request, self.draws)
        return self._predictions[key]

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

    @property
    def _loads(self) -> Floats:
        return _CLIENTS if self.closed else _RATES

    def _check(self, unit: Unit, static: Static, role: Role, load: float) -> str | None:
        key = (*unit.key, role, load)
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
        loads = self._loads
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

    def _estimates(self, shape: Shape, table: StepTable) -> Bounds:
        room, found = self.room(shape), self.pieces.schedulers(shape)
        limit = self._max_model_len(shape, room)
        statics = estimates(shape, table, self.draws, found, room.kv_tokens, self.request.slo)
        return [
            (Unit(shape=shape, scheduler=scheduler, max_model_len=limit), static)
            for scheduler, static in zip(found, statics, strict=True)
        ]

    def _max_model_len(self, shape: Shape, room: Room) -> int | None:
        """A limit to the context where the model's whole one does not fit: the longest request, or what there is room
        for in steps of 1,024 tokens."""
        whole = shape.model.max_context_tokens
        if whole is None or whole <= room.kv_tokens:
            return None
        return max(self.longest_tokens, min(whole, int(room.kv_tokens * 0.9) // 1024 * 1024))


def _optimism(shape: Shape) -> tuple[float, float]:
    return _MOE_OPTIMISM if shape.model.is_moe else _DENSE_OPTIMISM


def _faster(table: StepTable, context: float, decode: float) -> StepTable:
    return replace(
        table,
        context_ms=table.context_ms * context,
        decode_ms=table.decode_ms * decode,
        context_attention_ms=table.context_attention_ms * context,
        decode_attention_ms=table.decode_attention_ms * decode,
    )
