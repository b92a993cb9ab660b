"""What `bench_tune_openvino` tunes: two workloads of the embedded engine, and the grid of settings measured for each.

The workloads are A (a closed loop of eight clients, 256 tokens in, 32 out) and B (Poisson arrivals, four a second, 1,024
in, 32 out). A grid holds levels of the knobs that the engine's shipped space searches, under the rules it ships with.
Prompts share nothing, so the prefix cache is off.

A request is good when its first token comes within 300 ms per 256 prompt tokens (set after the first repeat of the grid, so
that there is something to find) and each further one within what half of the default setting's requests kept, over its
runs of the grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.model.plans import Lengths, Workload
from controlplane.model.tuning import (
    ChoiceParameter,
    Condition,
    Objective,
    Parameter,
    SearchSpace,
    Setting,
    Value,
)
from controlplane.model.tuning_job import Budget, EngineTarget, Measuring, RequestSlo, TuningSpec
from tuner.search.space import compile_space
from tuner.search.spaces.engine import EngineFacts, engine_space

METRIC = "goodput_per_s"
FIXED: Mapping[str, Value] = {"enablePrefixCaching": False}


@dataclass(frozen=True, slots=True)
class Bench:
    """A workload, its limits for one request, and levels of the grid. `requests`: of one run; `confirm_runs`: rounds of
    a job at most."""

    name: str
    load: Workload
    slo: RequestSlo
    requests: int
    warm_up: int
    confirm_runs: int
    tokens: tuple[int, ...]
    seqs: tuple[int, ...]

    @property
    def longest_tokens(self) -> int:
        assert self.load.input is not None and self.load.output is not None
        return self.load.input.tokens + self.load.output.tokens

    def shipped(self) -> SearchSpace:
        """The space that the engine comes with on two cores, as a job on this workload gets it."""
        facts = EngineFacts(engine="openvino", cores=2, longest_tokens=self.longest_tokens, fixed=FIXED)
        return engine_space(facts)

    def space(self) -> SearchSpace:
        """The shipped space on the levels of the grid, with its rules."""
        shipped = self.shipped()
        return shipped.model_copy(update={"parameters": [self._levels(one) for one in shipped.parameters]})

    def cells(self) -> list[Setting]:
        """Every setting of the grid that the rules allow, in the order of its levels."""
        space = compile_space(self.space())
        out: list[Setting] = []
        for values in itertools.product(*(axis.choices for axis in space.axes)):
            setting = {axis.name: value for axis, value in zip(space.axes, values, strict=True)}
            rows = space.rows_of([setting])
            kept = space.setting(rows, 0)
            if space.broken_rule(kept) is None and kept not in out:
                out.append(kept)
        return out

    def default(self) -> Setting:
        """The setting that the engine runs with when nobody says anything: the cell that stands for it."""
        return {**FIXED, "dynamicSplitFuse": True, "maxNumBatchedTokens": 256, "numThreads": 2}

    def spec(self, model: str, *, space: SearchSpace | None = None, trials: int = 1, seed: int = 0) -> TuningSpec:
        """A job. Each trial is one run in a fresh process."""
        return TuningSpec(
            target=EngineTarget(engine="openvino", model=model),
            space=space or self.space(),
            objectives=[Objective(metric=METRIC)],
            slo=self.slo,
            load=self.load,
            budget=Budget(trials=trials),
            measuring=Measuring(
                requests=self.requests, warm_up_requests=self.warm_up, runs_min=1, runs_max=1, timeout_s=120.0
            ),
            seed=seed,
        )

    def _levels(self, one: Parameter) -> ChoiceParameter:
        levels: Mapping[str, tuple[Value, ...]] = {
            "dynamicSplitFuse": (True, False),
            "maxNumBatchedTokens": self.tokens,
            "maxNumSeqs": self.seqs,
            "numThreads": (1, 2),
        }
        when = [Condition(parameter=other.parameter, values=other.values) for other in one.when]
        return ChoiceParameter(name=one.name, values=list(levels[one.name]), when=when, ordered=True)


A = Bench(
    name="a",
    load=Workload(arrivals="closed", concurrency=8, input=Lengths(tokens=256), output=Lengths(tokens=32)),
    slo=RequestSlo(ttft_ms=300.0, tpot_ms=10.0),
    requests=60,
    warm_up=16,
    confirm_runs=8,
    tokens=(32, 64, 128, 256, 512, 1024, 2048),
    seqs=(1, 2, 4, 8),
)
B = Bench(
    name="b",
    load=Workload(arrivals="poisson", rate_per_second=4.0, input=Lengths(tokens=1024), output=Lengths(tokens=32)),
    slo=RequestSlo(ttft_ms=1200.0, tpot_ms=14.3),
    requests=28,
    warm_up=4,
    confirm_runs=6,
    tokens=(64, 128, 256, 512, 1024, 2048, 4096),
    seqs=(1, 2, 4, 8),
)
BENCHES = (A, B)
