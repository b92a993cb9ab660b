"""NSGA-II (Deb and others 2002): generations of parents and children, for several objectives and long studies.

Parents of a generation are chosen here and handed to Optuna as its first generation, which then crosses and mutates
them. So what Optuna sees is one population, however long the study is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import optuna

from controlplane.model.ports import Sampler
from controlplane.model.tuning import Proposal, Told, Verdict
from tuner.search.front import select
from tuner.search.history import History
from tuner.search.question import Question
from tuner.search.samplers import optuna_study
from tuner.search.seeds import seed_of

POPULATION = 24
# How Optuna knows its first generation.
_OLDEST = {"NSGAIISampler:generation": 0}


@dataclass(slots=True)
class Nsga2Sampler:
    """Trials of generation g are numbers g x POPULATION and on. The first is random."""

    question: Question
    _history: History = field(default_factory=History)
    _parents: list[list[Told]] = field(default_factory=list)  # of generation 1 and on, as far as they are known

    def tell(self, told: Told) -> None:
        """A trial was asked, or its result is known."""
        self._history.tell(told)
        del self._parents[max(told.number - len(self.question.first), 0) // POPULATION :]

    def ask(self, number: int) -> Proposal:
        """The configuration of trial `number`."""
        given = self.question.given(number)
        if given is not None:
            return given
        space, seed = self.question.space, self.question.seed
        generation = (number - len(self.question.first)) // POPULATION
        parents = self._parents_of(generation)
        if sum(told.verdict is Verdict.OK for told in parents) < 2:
            rows = space.draw(np.random.default_rng((seed, number)), 1)
            return Proposal(setting=space.setting(rows, 0), reason="random first generation")
        asked = optuna_study.ask(
            space,
            self.question.objectives,
            parents,
            lambda: optuna.samplers.NSGAIISampler(population_size=len(parents), seed=seed_of(seed, number)),
            seed,
            number,
            _OLDEST,
        )
        return Proposal(
            setting=asked.setting, reason=f"generation {generation}" if asked.chosen else "random, for the rules"
        )

    def _parents_of(self, generation: int) -> list[Told]:
        while len(self._parents) < generation:
            done = len(self._parents)
            before = self._parents[-1] if self._parents else []
            start = len(self.question.first) + done * POPULATION
            born = range(start if done else 0, start + POPULATION)
            ended = [told for told in self._history.of(born) if told.verdict is not None]
            self._parents.append(select([*before, *ended], self.question.objectives, POPULATION))
        return self._parents[generation - 1] if generation else []


def make(question: Question) -> Sampler:
    """The registry's entry."""
    return Nsga2Sampler(question)
