"""A study: results go to the sampler in the order of their trials, so that the same seed asks the same questions.

Trials under way end in any order. If the sampler heard of each as it ended, the next ask would depend on which machine
was faster that day, and a study that was interrupted could not be rebuilt. So ask `n` knows the results of every trial
up to `n - window` and of none after it, however many of those have ended by then. With one trial at a time that is
every result; with `p` at a time a slow trial holds the others up only when `p - 1` more have gone past it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from controlplane.model.errors import TrimtabError
from controlplane.model.ports import Sampler
from controlplane.model.tuning import Setting, Told, TrialPurpose, TrialState
from controlplane.model.tuning_records import Ask, TrialRecord, told_of
from tuner.best_so_far import BestSoFar

# So many trials in a row without a result say that it is not the trials.
FAILED_IN_A_ROW = 5


def window_of(parallel: int) -> int:
    """How far back the newest result lies that an ask knows."""
    return 2 * parallel - 1


@dataclass(slots=True, eq=False)
class Study:
    """`see` the trials since `first_open`, then `asks` what is missing. Rebuilt from its trials by one `see` of all.
    `best`: what its asks are held against; None: all are measured in full."""

    sampler: Sampler
    parallel: int
    canonical: Callable[[Setting], str]
    best: BestSoFar | None = None
    _asked: int = 0
    _seen: int = 0
    _told: int = 0
    _known: dict[int, TrialRecord] = field(default_factory=dict)
    _since: int | None = None
    _beside: int = 0  # trials that are not the search's: the budget does not count them

    @property
    def asked(self) -> int:
        """Trials asked so far."""
        return self._asked

    @property
    def searched(self) -> int:
        """Trials of the search asked so far."""
        return self._asked - self._beside

    @property
    def first_open(self) -> int:
        """Trials below it will not change, and the sampler knows them: they need not be read again."""
        return self._told

    def see(self, trials: Sequence[TrialRecord]) -> None:
        """Every trial from `first_open` on, in order."""
        if self._since is None:
            self._since = len(trials)
        for trial in trials:
            self._known[trial.number] = trial
            self._seen = max(self._seen, trial.number + 1)
        for trial in trials:
            if trial.number >= self._asked:
                self._settle(trial.number)
                if trial.purpose is TrialPurpose.SEARCH:
                    self.sampler.tell(Told(number=trial.number, setting=trial.setting))
                else:
                    self._beside += 1
                self._asked = trial.number + 1

    def asks(self, budget: int) -> list[Ask]:
        """What to measure next: up to `parallel` under way, `budget` in all. The study counts them as asked: where they
        cannot be stored, throw the study away. Raises what the sampler raises."""
        out: list[Ask] = []
        while self.under_way < self.parallel and self.searched < budget and self._settle(self._asked):
            number = self._asked
            try:
                proposal = self.sampler.ask(number)
            except TrimtabError:
                if out:
                    break  # what was asked before it is still to be measured
                raise
            self.sampler.tell(Told(number=number, setting=proposal.setting))
            self._asked += 1
            canonical = self.canonical(proposal.setting)
            out.append(
                Ask(
                    number=number,
                    setting=proposal.setting,
                    canonical=canonical,
                    why=proposal.reason,
                    seed=number,
                    bar=None if self.best is None or proposal.full else self.best.bar(canonical),
                )
            )
        return out

    def over(self, budget: int) -> bool:
        """Everything within the budget was asked and has ended."""
        return self.searched >= budget and not self.under_way

    @property
    def under_way(self) -> int:
        """Trials that wait or are measured."""
        return self._asked - self._seen + sum(not trial.final for trial in self._known.values())

    def failing(self) -> str | None:
        """Why the newest trials failed, if so many in a row did that the study should stop asking. Trials that an
        earlier driver asked do not count: a job that was resumed gets as many tries again."""
        since = self._since or 0
        newest = [trial for n, trial in sorted(self._known.items()) if trial.final and n >= since][-FAILED_IN_A_ROW:]
        if len(newest) < FAILED_IN_A_ROW or any(trial.state is not TrialState.FAILED for trial in newest):
            return None
        return newest[-1].reason

    def _settle(self, number: int) -> bool:
        """Tell the results that ask `number` knows. False: one of them is still open."""
        upto = number - window_of(self.parallel)
        while self._told <= upto:
            trial = self._known[self._told]
            if not trial.final:
                return False
            if trial.purpose is TrialPurpose.SEARCH:
                self.sampler.tell(told_of(trial))
            if self.best is not None:
                self.best.hear(trial)
            self._told += 1
            self._known.pop(self._told - FAILED_IN_A_ROW - 1, None)
        return True
