"""Tree-structured Parzen estimator of Optuna (Bergstra and others 2011), with limits and failures as its constraints."""

from __future__ import annotations

from dataclasses import dataclass, field

import optuna

from controlplane.model.ports import Sampler
from controlplane.model.tuning import Proposal, Told
from tuner.search.history import History, within
from tuner.search.objective import scores_of, weights_of
from tuner.search.question import Question
from tuner.search.samplers import optuna_study
from tuner.search.seeds import seed_of

# Trials Optuna sees: half the failures' and half the measured ones' newest and best.
SEEN_MAX = 120


@dataclass(slots=True)
class TpeSampler:
    """Optuna's defaults; the first ten are random."""

    question: Question
    _history: History = field(default_factory=History)

    def tell(self, told: Told) -> None:
        """A trial was asked, or its result is known."""
        self._history.tell(told)

    def ask(self, number: int) -> Proposal:
        """The configuration of trial `number`."""
        given = self.question.given(number)
        if given is not None:
            return given
        asked = optuna_study.ask(
            self.question.space,
            self.question.objectives,
            [*self._ended(), *self._history.under_way()],
            lambda: optuna.samplers.TPESampler(seed=seed_of(self.question.seed, number)),
            self.question.seed,
            number,
        )
        return Proposal(setting=asked.setting, reason="Parzen estimator" if asked.chosen else "random, for the rules")

    def _ended(self) -> list[Told]:
        ok, failed = self._history.ok(), self._history.infeasible()[-SEEN_MAX // 2 :]
        if ok:
            weights = weights_of(len(self.question.objectives), None)
            scores = scores_of(ok, self.question.objectives, weights)
            ok = [ok[int(i)] for i in within(scores, SEEN_MAX - len(failed))]
        return sorted((*ok, *failed), key=lambda told: told.number)


def make(question: Question) -> Sampler:
    """The registry's entry."""
    return TpeSampler(question)
