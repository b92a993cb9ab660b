"""A simulator fitted by the job's own trials: what it expects of settings that nobody has measured yet.

No hardware needs to be known beforehand. The engine's admission rules are (`tuner.serving.replay`), the load is the job's
own, and what an iteration costs here is learnt from the figures of the first trials (`fitted_fit`). So it can say after
one trial what a smaller step budget does to the times to the first token, and after one with fewer threads what those do
everywhere. How far it can be believed is known as well: from the spread of the costs, and from how well it tells trials
that it was not fitted to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice, product

import numpy as np
import numpy.typing as npt

from controlplane.catalog import Engine, load
from controlplane.model.errors import TrimtabError, UnknownName
from controlplane.model.tuning import Limit, Setting, Told, Value
from controlplane.model.tuning_job import DeploymentTarget, EngineTarget, TuningSpec
from tuner.search.axis import Axis
from tuner.search.canonical import digest
from tuner.search.fitted_costs import Costs, costs_of, is_hardware
from tuner.search.fitted_fit import PACE_SPREAD, Fit, Fitting
from tuner.search.fitted_replay import Replayer, Run, known_figure
from tuner.search.gaussian import cumulative
from tuner.search.space import Space
from tuner.serving.replay.rules import EngineRules, default_rules

Floats = npt.NDArray[np.float64]

# Deviation of the logarithm of one request's times: its run's pace, and its own.
_BLUR = math.hypot(PACE_SPREAD, 0.1)
# Three points with the mean and spread of a normal distribution (Gauss and Hermite).
_POINTS = ((0.0, 2 / 3), (-math.sqrt(3), 1 / 6), (math.sqrt(3), 1 / 6))
_COUNTED = ("goodput_per_s", "attainment")
_KEPT_MOST = 512
_LONG = 100  # requests of a run
_CHOSEN_MOST = 1024  # combinations of knobs without a known default that are looked at


@dataclass(frozen=True, slots=True)
class Expected:
    """Of one setting: the objective at three paces of the engine, and the probability that every limit is kept."""

    values: tuple[float, ...]
    kept: float

    @property
    def value(self) -> float:
        """At the likeliest pace."""
        return self.values[0]


@dataclass(frozen=True, slots=True)
class InUse:
    """`chosen`: names whose default nobody knows."""

    setting: Setting
    chosen: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Simulator:
    """Of one job with one objective. `fit` first, then `expects` and `expected_of` speak of that fit."""

    spec: TuningSpec
    space: Space
    _costs: Costs = field(init=False)
    _replayer: Replayer = field(init=False)
    _fitting: Fitting = field(init=False)
    _fit: Fit | None = None
    _kept: dict[tuple[str, int], Expected | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._costs = costs_of(self.space)
        self._replayer = Replayer(self.spec)
        self._fitting = Fitting(self._replayer, self._costs)

    def fit(self, measured: Sequence[Told]) -> Fit | None:
        """To measured trials in their order. None before any had figures, or where none can be replayed."""
        found = self._fitting.of(measured)
        if found is not self._fit:
            self._fit = found
            self._kept.clear()
        return found

    def expects(self, setting: Setting) -> Expected | None:
        """Of a setting under requests that nobody has sent yet; None where it cannot be replayed."""
        found = [self._once(setting, seed) for seed in self._seeds()]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        values = tuple(float(np.mean([one.values[i] for one in known])) for i in range(len(_POINTS)))
        return Expected(values, float(np.mean([one.kept for one in known])))

    def expected_of(self, told: Told) -> Expected | None:
        """Of a trial: with the requests that it sent."""
        return self._once(told.setting, told.seed)

    @property
    def engine(self) -> str:
        """Its name."""
        assert isinstance(self.spec.target, EngineTarget)
        return self.spec.target.engine

    @property
    def counts(self) -> bool:
        """Whether the objective counts requests within limits: nothing at all is a usual value of it then."""
        return self.spec.objectives[0].metric in _COUNTED

    def in_use(self) -> InUse | None:
        """What the engine runs with when nobody says anything, as far as the space has it: the first to be measured.
        Knobs without a known default have the first values that the rules allow beside the others."""
        assert isinstance(self.spec.target, EngineTarget)
        engine = load().engine(self.spec.target.engine, field="target.engine")
        rules = default_rules(self.spec.target.engine)
        given: Setting = {}
        for axis in self.space.axes:
            value = _default(engine, rules, axis)
            if value is not None:
                given[axis.name] = value
        unknown = [axis for axis in self.space.axes if axis.name not in given]
        names = [axis.name for axis in unknown]
        values = islice(product(*(_some(axis) for axis in unknown)), _CHOSEN_MOST)
        rows = self.space.rows_of([given | dict(zip(names, some, strict=True)) for some in values])
        allowed = np.flatnonzero(self.space.allowed(rows))
        if not len(allowed):
            return None
        setting = self.space.setting(rows, int(allowed[0]))
        return InUse(setting, tuple(name for name in names if name in setting))

    def _once(self, setting: Setting, seed: int) -> Expected | None:
        assert self._fit is not None
        key = (digest(setting), seed)
        if key not in self._kept:
            if len(self._kept) >= _KEPT_MOST:
                self._kept.clear()
            self._kept[key] = self._asked(self._fit, setting, seed)
        return self._kept[key]

    def _asked(self, fit: Fit, setting: Setting, seed: int) -> Expected | None:
        rows = self._costs.rows(setting)
        try:
            run = self._replayer.run(setting, self._costs.costs(rows, fit.unknowns), seed)
        except TrimtabError:
            return None
        slope = run.shares @ rows
        spread = math.sqrt(max(float(slope @ fit.spread @ slope), 0.0))
        metric, slo = self.spec.objectives[0].metric, self.spec.slo
        values = []
        for step, _ in _POINTS:
            value = run.figure(metric, slo, math.exp(step * min(spread, 1.0)), _BLUR)
            if value is None or not math.isfinite(value):
                return None
            values.append(value)
        return Expected(tuple(values), math.prod(self._keeps(run, limit, spread) for limit in self.spec.limits))

    def _keeps(self, run: Run, limit: Limit, spread: float) -> float:
        """1 where a replay does not know the metric."""
        value = run.figure(limit.metric, self.spec.slo, 1.0, _BLUR)
        bound = limit.at_most if limit.at_most is not None else limit.at_least
        if value is None or bound is None or value <= 0 or bound <= 0:
            return 1.0
        room = math.log(bound / value) * (1.0 if limit.at_most is not None else -1.0)
        return float(cumulative(np.array([room / math.hypot(spread, _BLUR)]))[0])

    def _seeds(self) -> tuple[int, ...]:
        """One is enough where every run is alike, or long."""
        load_ = self.spec.load
        spans = [one.range_ratio for one in (load_.input, load_.output) if one is not None]
        alike = load_.arrivals == "closed" and all(ratio >= 1.0 for ratio in spans)
        alike = alike or self.spec.measuring.requests >= _LONG
        return (self.spec.seed,) if alike else (self.spec.seed, self.spec.seed + 1)


def scored(expected: Sequence[Expected], score: Scores) -> tuple[Floats, Floats]:
    """Mean and deviation of the scores."""
    weights = np.array([weight for _, weight in _POINTS])
    values = score.of(np.array([one.values for one in expected]))
    mean = values @ weights
    return mean, np.sqrt(np.maximum((values - mean[:, None]) ** 2 @ weights, 0.0))


@dataclass(frozen=True, slots=True)
class Scores:
    """Values as scores to maximise: a share of the largest where requests are counted, else logarithms."""

    sign: float
    largest: float
    least: float | None  # of the logarithm; None: shares

    @classmethod
    def over(cls, measured: Sequence[float], *, counts: bool, maximize: bool) -> Scores:
        """What was measured sets the scale. A forecast a thousandth of the least is as bad as none."""
        largest = max((abs(value) for value in measured), default=1.0) or 1.0
        positive = min(measured, default=1.0) > 0
        least = min(measured, default=1.0) / 1000 if positive and not counts else None
        return cls(1.0 if maximize else -1.0, largest, least)

    def of(self, values: Floats) -> Floats:
        """Same shape."""
        scores = values / self.largest if self.least is None else np.log(np.maximum(values, self.least))
        return np.asarray(self.sign * scores, np.float64)


def simulator_of(spec: TuningSpec, space: Space) -> Simulator | str:
    """Or why there is none."""
    if isinstance(spec.target, DeploymentTarget) and spec.target.serves is not None:
        spec = spec.model_copy(update={"target": spec.target.serves})
    if not isinstance(spec.target, EngineTarget):
        return "no simulator knows what is tuned"
    if len(spec.objectives) > 1:
        return "no simulator is fitted to several objectives"
    metric = spec.objectives[0].metric
    if not known_figure(metric) or (metric in _COUNTED and spec.slo is None):
        return f"no simulator is fitted: a replay has no {metric}"
    if spec.load.arrivals in ("trace", "burst"):
        return f"no simulator is fitted: nobody can replay {spec.load.arrivals} arrivals here"
    try:
        default_rules(spec.target.engine)
    except UnknownName:
        return f"no simulator is fitted: nobody knows whom {spec.target.engine} lets in when"
    return Simulator(spec, space)


def _some(axis: Axis) -> list[Value]:
    """Values to choose from: all of a choice in their order; of a range its middle, then its ends."""
    if axis.kind == "choice":
        return list(axis.choices)
    return list(dict.fromkeys(axis.python(value) for value in axis.values_at(np.array([0.5, 0.0, 1.0]))))


def _default(engine: Engine, rules: EngineRules, axis: Axis) -> Value | None:
    """None: nobody says."""
    knob = engine.knob(axis.name)
    value = knob.default if knob is not None else None
    if value is None:
        value = {
            "maxNumBatchedTokens": rules.token_budget, "chunkedPrefillSize": rules.token_budget,
            "maxNumSeqs": rules.max_sequences, "blockSize": rules.block_tokens,
            "enablePrefixCaching": rules.prefix_caching, "enableChunkedPrefill": rules.chunked,
            "asyncScheduling": rules.planned_ahead, "overlapScheduler": rules.planned_ahead,
        }.get(axis.name)  # fmt: skip
    if value is None and is_hardware(axis):
        value = math.inf
    return None if value is None else axis.nearest(value)
