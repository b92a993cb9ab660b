"""What the static estimates say of each shape: memory, replicas that fit, the load that one replica could carry.

Before a shape has its step table the roofline's times bound it, made optimistic. Tables cost up to half a CPU second each
where none is kept on disk, so what they say of some shapes of an engine is held against the roofline of its others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from controlplane.model.errors import TrimtabError
from controlplane.model.plans import PlanRequest, Role
from tuner.serving.case import EngineCase
from tuner.serving.planner.load import Draws
from tuner.serving.planner.packing import most_replicas
from tuner.serving.planner.pieces import Pieces, Room
from tuner.serving.planner.shape import Shape, Unit
from tuner.serving.planner.static import Static, estimates
from tuner.serving.step.table import Floats, StepTable

# Loads at which a replica's goodput is looked for, 2 % apart and the same for every deployment and every SLO.
_RATES: Floats = 1e-3 * 1.02 ** np.arange(840, dtype=np.float64)
_CLIENTS: Floats = np.unique(np.round(1.02 ** np.arange(582)))
# A measured engine may be faster than the roofline thinks, so bounds take these shares of its times (context, decode).
# Least ratios of 61 dense and 76 MoE engines (three models, three accelerators, three engines) were 0.80, 0.88 and 0.43,
# 0.72; a little is left for what was not among them.
_DENSE_OPTIMISM = (0.78, 0.86)
_MOE_OPTIMISM = (0.40, 0.70)
# Once one, two, three or more shapes of a family (engine, accelerator, precision, the same kinds of parallelism) have their
# tables, the others are believed to reach at most so many times the best share of its bound that any of them reached. Shapes
# of DeepSeek-V3 and Llama 3.1 70B on eight accelerators with three engines reached at most 1.73 times the first's (177
# shapes), 1.47 times the best of two (132) and 1.35 times the best of three (98).
_FAMILY_HOPES = (2.0, 1.6, 1.5)

Bounds = list[tuple[Unit, Static]]
Family = tuple[object, ...]
_Key = tuple[str, ...]


@dataclass(slots=True)
class ShapeBounds:
    """One planning question's memo of what is known of shapes without a replay."""

    request: PlanRequest
    draws: Draws
    pieces: Pieces
    longest_tokens: int
    _tabled: dict[_Key, Bounds] = field(default_factory=dict)
    _sketched: dict[_Key, Bounds] = field(default_factory=dict)
    _rooms: dict[_Key, Room] = field(default_factory=dict)
    _most: dict[_Key, int] = field(default_factory=dict)
    _unsupported: dict[_Key, str | None] = field(default_factory=dict)
    _limits: dict[tuple[object, ...], float] = field(default_factory=dict)
    _statics: dict[tuple[object, ...], list[Static]] = field(default_factory=dict)
    _asked_for: set[EngineCase] = field(default_factory=set)
    _reached: dict[Family, dict[EngineCase, float]] = field(default_factory=dict)

    @property
    def closed(self) -> bool:
        """Whether loads are clients instead of rates."""
        return self.draws.clients is not None

    @property
    def loads(self) -> Floats:
        """Loads of one replica that are told apart."""
        return _CLIENTS if self.closed else _RATES

    @property
    def tables(self) -> int:
        """Step tables that were asked for, wherever they came from."""
        return len(self._asked_for)

    def new_tables(self, shapes: list[Shape]) -> int:
        """Step tables that these shapes need and nobody has asked for."""
        return len({shape.case for shape in shapes} - self._asked_for)

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
                self.tabled(shape)
                self._unsupported[shape.key] = None
            except TrimtabError as error:
                self._unsupported[shape.key] = str(error)
        return self._unsupported[shape.key]

    def tabled(self, shape: Shape) -> Bounds:
        """Each scheduler setting with its bounds from the table that replays use. Raises TrimtabError."""
        if shape.key not in self._tabled:
            self._asked_for.add(shape.case)
            self._tabled[shape.key] = self._estimates(shape, self.pieces.table(shape), sketched=False)
            self._compare(shape)
        return self._tabled[shape.key]

    def bounds(self, shape: Shape) -> Bounds:
        """The best bounds there are without building a table: its own, or the roofline's made optimistic. Raises
        TrimtabError."""
        return self._tabled[shape.key] if shape.key in self._tabled else self._sketch(shape)

    def limit(self, shape: Shape, role: Role) -> float:
        """Largest load of one replica that the static bounds let pass; 0 when none does."""
        tabled = shape.key in self._tabled
        key = (shape.key, role, tabled)
        if key not in self._limits:
            self._limits[key] = min(self._most_within(self.bounds(shape), role), float(self.loads[-1]))
        return self._limits[key] if tabled else self._limits[key] * self._believed(shape)

    def raw_rate(self, shape: Shape, role: Role) -> float:
        """Requests per second one replica can compute, whatever the latency."""
        return max((static.most(role) for _, static in self.bounds(shape)), default=0.0)

    def why_no_load(self, shape: Shape, role: Role) -> str:
        """What the static bounds say against the smallest load."""
        for _, static in self.bounds(shape):
            said = static.fails(self.request.slo, role, float(self.loads[0]), closed=self.closed)
            if said is not None:
                return said
        return "no load passes"

    def optimism(self, shape: Shape) -> tuple[float, float]:
        """Shares of the roofline's times (context, decode) that bounds take."""
        return _MOE_OPTIMISM if shape.model.is_moe else _DENSE_OPTIMISM

    def _sketch(self, shape: Shape) -> Bounds:
        if shape.key not in self._sketched:
            if (shape.case, shape.pool.power_cap_w, True) in self._statics:
                self._sketched[shape.key] = self._estimates(shape, None, sketched=True)
            else:
                faster = _faster(self.pieces.sketch(shape), *self.optimism(shape))
                self._sketched[shape.key] = self._estimates(shape, faster, sketched=True)
        return self._sketched[shape.key]

    def _most_within(self, bounds: Bounds, role: Role) -> float:
        slo = self.request.slo
        return max((static.limit(slo, role, closed=self.closed) for _, static in bounds), default=0.0)

    def _compare(self, shape: Shape) -> None:
        """Notes which share of its optimistic bound a shape reached."""
        if shape.key not in self._sketched or self.closed:
            return
        hoped = self._most_within(self._sketched[shape.key], "aggregated")
        if hoped > 0:
            reached = self._most_within(self._tabled[shape.key], "aggregated")
            self._reached.setdefault(_family(shape), {})[shape.case] = reached / hoped

    def _believed(self, shape: Shape) -> float:
        reached = self._reached.get(_family(shape), {})
        if not reached:
            return 1.0
        return min(1.0, _FAMILY_HOPES[min(len(reached), len(_FAMILY_HOPES)) - 1] * max(reached.values()))

    def _estimates(self, shape: Shape, table: StepTable | None, *, sketched: bool) -> Bounds:
        """With the table, or with what was made of it for the same engine in another pool."""
        room, found = self.room(shape), self.pieces.schedulers(shape)
        limit = self._max_model_len(shape, room)
        key = (shape.case, shape.pool.power_cap_w, sketched)
        if key not in self._statics:
            assert table is not None, "asked without one only where the estimates are known"
            self._statics[key] = estimates(shape, table, self.draws, found, room.kv_tokens, self.request.slo)
        return [
            (Unit(shape=shape, scheduler=scheduler, max_model_len=limit), static)
            for scheduler, static in zip(found, self._statics[key], strict=True)
        ]

    def _max_model_len(self, shape: Shape, room: Room) -> int | None:
        """A limit to the context where the model's whole one does not fit: the longest request, or what there is room
        for in steps of 1,024 tokens."""
        whole = shape.model.max_context_tokens
        if whole is None or whole <= room.kv_tokens:
            return None
        return max(self.longest_tokens, min(whole, int(room.kv_tokens * 0.9) // 1024 * 1024))


def _family(shape: Shape) -> Family:
    case = shape.case
    kinds = case.pipeline_parallel > 1, case.attention_data_parallel > 1, case.moe_expert_parallel > 1
    return (case.engine, case.accelerator, shape.precision.label, *kinds)


def _faster(table: StepTable, context: float, decode: float) -> StepTable:
    return replace(
        table,
        context_ms=table.context_ms * context,
        decode_ms=table.decode_ms * decode,
        context_attention_ms=table.context_attention_ms * context,
        decode_attention_ms=table.decode_attention_ms * decode,
    )
