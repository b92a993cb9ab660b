"""Studies of the default sampler on the landscape."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from controlplane.model.tuning import Objective, Setting, Told, Verdict
from tests.perf.oom_landscape import TRIALS, Landscape, space, truth
from tuner.search.question import Question
from tuner.search.samplers.default import DefaultSampler
from tuner.search.space import compile_space


@dataclass(frozen=True, slots=True)
class Outcome:
    """`recommended`: noise-free value of what would be handed over. `ask_cpu_ms`: mean over the study's asks."""

    wasted: int
    best: float
    recommended: float
    ask_cpu_ms: float


def study(seed: int, *, precheck: bool = False, trials: int = TRIALS) -> Outcome:
    """The default sampler, one trial at a time."""
    landscape = Landscape(seed)
    searched = compile_space(space(seed if precheck else None))
    sampler = DefaultSampler(Question(space=searched, objectives=(Objective(metric="value"),), seed=seed))
    spent_s = 0.0
    for number in range(trials):
        started_s = time.process_time()
        setting = sampler.ask(number).setting
        spent_s += time.process_time() - started_s
        _tell(sampler, number, setting, landscape)
    chosen = sampler.recommend()
    recommended = truth(chosen) if chosen is not None else None
    return Outcome(landscape.wasted, landscape.best, recommended or 0.0, spent_s / trials * 1e3)


def long_ask_cpu_ms(trials: int, asks: int = 10) -> list[float]:
    """CPU of each ask and tell in a study that holds this many random trials."""
    landscape, searched = Landscape(0), compile_space(space())
    sampler = DefaultSampler(Question(space=searched, objectives=(Objective(metric="value"),), seed=0))
    rows = searched.draw(np.random.default_rng(0), trials)
    for number in range(trials):
        _tell(sampler, number, searched.setting(rows, number), landscape)
    spent = []
    for number in range(trials, trials + asks):
        started_s = time.process_time()
        setting = sampler.ask(number).setting
        _tell(sampler, number, setting, landscape)
        spent.append((time.process_time() - started_s) * 1e3)
    return spent


def _tell(sampler: DefaultSampler, number: int, setting: Setting, landscape: Landscape) -> None:
    value = landscape.measure(setting)
    verdict = Verdict.INFEASIBLE if value is None else Verdict.OK
    sampler.tell(Told(number=number, setting=setting, verdict=verdict, values=[] if value is None else [value]))
