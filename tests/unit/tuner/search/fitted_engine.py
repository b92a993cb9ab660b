"""An engine that answers in no time: figures of a replay with costs of our choosing, or of an engine that behaves otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from controlplane.model.tuning import TOLD_FIGURES, Setting, Told, Verdict
from controlplane.model.tuning_job import TuningSpec
from controlplane.tuning_jobs import completed, sampler_of, space_of
from tuner.search.fitted_replay import Replayer
from tuner.search.samplers.default import DefaultSampler

Floats = npt.NDArray[np.float64]
COSTS = np.array([2.0, 0.1, 0.2, 2e-5])
CLOSED = {"arrivals": "closed", "concurrency": 8, "input": {"tokens": 256}, "output": {"tokens": 32}}
POISSON = {"arrivals": "poisson", "ratePerSecond": 4, "input": {"tokens": 1024}, "output": {"tokens": 32}}


def spec_of(**more: Any) -> TuningSpec:
    """Goodput of the embedded engine on eight cores."""
    body: dict[str, Any] = {
        "target": {"kind": "engine", "engine": "openvino", "model": "m"},
        "load": CLOSED,
        "objectives": [{"metric": "goodput_per_s"}],
        "slo": {"ttftMs": 150, "tpotMs": 9},
        "measuring": {"requests": 60},
    }
    return completed(TuningSpec.model_validate(body | more), cores=8)


def threaded(setting: Setting) -> Floats:
    """Costs that fall with threads as a processor's do."""
    return np.asarray(COSTS * (8 / float(setting.get("numThreads", 8))) ** 0.6, np.float64)


def against_threads(setting: Setting) -> Floats:
    """More threads are slower, and so are larger steps: nothing that the simulator would expect."""
    threads, tokens = float(setting.get("numThreads", 8)), float(setting["maxNumBatchedTokens"])
    return np.asarray(COSTS * (threads / 3) ** 1.2 * (1 + tokens / 400), np.float64)


@dataclass(slots=True, eq=False)
class FakeEngine:
    """`noise`: deviation of the logarithm of a run's pace."""

    spec: TuningSpec
    costs: Callable[[Setting], Floats] = threaded
    noise: float = 0.05

    def told(self, number: int, setting: Setting) -> Told:
        """The trial as the study would be told of it."""
        pace = float(np.exp(np.random.default_rng((self.spec.seed, number)).normal(0.0, self.noise)))
        run = Replayer(self.spec).run(setting, self.costs(setting) * pace, number)
        known = {name: run.figure(name, None) for name in TOLD_FIGURES}
        value = run.figure(self.spec.objectives[0].metric, self.spec.slo)
        assert value is not None
        over = [
            figure - limit.at_most
            for limit in self.spec.limits
            if limit.at_most is not None and (figure := run.figure(limit.metric, self.spec.slo)) is not None
        ]
        return Told(
            number=number, setting=setting, verdict=Verdict.OK, values=[value], violation=over, seed=number,
            figures={name: figure for name, figure in known.items() if figure is not None},
        )  # fmt: skip

    def best(self, among: int = 200) -> float:
        """Of settings drawn anywhere, without noise."""
        space = space_of(self.spec)
        rows = space.draw(np.random.default_rng(9), among)
        quiet = replace(self, noise=0.0)
        return max(quiet.told(0, space.setting(rows, i)).values[0] for i in range(among))


def sampler(spec: TuningSpec, *, fitted: bool = True) -> DefaultSampler:
    """The job's own; without its simulator where not `fitted`."""
    made = sampler_of(spec)
    assert isinstance(made, DefaultSampler)
    return made if fitted else DefaultSampler(replace(made.question, simulator=None))


def studied(engine: FakeEngine, trials: int, asked: DefaultSampler | None = None) -> tuple[list[Told], list[str]]:
    """A study, one trial at a time: what was told, and why each was asked."""
    asked = asked or sampler(engine.spec)
    told, why = [], []
    for number in range(trials):
        proposal = asked.ask(number)
        why.append(proposal.reason)
        asked.tell(Told(number=number, setting=proposal.setting))
        told.append(engine.told(number, proposal.setting))
        asked.tell(told[-1])
    return told, why


def trials_to(engine: FakeEngine, good: float, most: int, *, fitted: bool = True) -> int:
    """Trials until one that is as good without noise was tried."""
    asked, quiet = sampler(engine.spec, fitted=fitted), replace(engine, noise=0.0)
    for number in range(most):
        setting = asked.ask(number).setting
        if quiet.told(number, setting).values[0] >= good:
            return number + 1
        asked.tell(engine.told(number, setting))
    return most
