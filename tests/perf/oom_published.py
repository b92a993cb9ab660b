"""Published ways of telling Optuna that a trial ran out of memory, on the landscape: the figures to beat.

Optuna 5.0.0 with its defaults, `study.ask()` and `tell`, one trial at a time, the sampler's seed is the noise's seed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal, get_args

import optuna

from tests.perf.oom_landscape import TRIALS, Landscape

Arm = Literal["random", "fail", "penalty", "worst", "constraint"]
ARMS: tuple[Arm, ...] = get_args(Arm)
SEEDS = range(20)


@dataclass(frozen=True, slots=True)
class Told:
    """What one study of an arm did. `best`: noise-free value of the best configuration tried."""

    wasted: int
    best: float


def study(arm: Arm, seed: int) -> Told:
    """60 trials of one arm."""
    landscape = Landscape(seed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen = optuna.samplers.RandomSampler(seed=seed) if arm == "random" else optuna.samplers.TPESampler(seed=seed)
    asked = optuna.create_study(direction="maximize", sampler=chosen)
    worst: float | None = None
    for _ in range(TRIALS):
        trial = asked.ask()
        value = landscape.measure(_suggest(trial))
        if value is not None:
            worst = value if worst is None else min(worst, value)
            if arm == "constraint":
                trial.set_constraint("oom", -1.0)
            asked.tell(trial, value)
        elif arm in ("random", "fail"):
            asked.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            if arm == "constraint":
                trial.set_constraint("oom", 1.0)
            asked.tell(trial, (worst or 0.0) if arm == "worst" else 0.0)
    return Told(landscape.wasted, landscape.best)


def ask_cpu_ms(trials: int, asks: int = 5) -> float:
    """CPU of one ask and tell of TPE in a study of this many trials, in memory."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    asked = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    landscape, filling = Landscape(0), optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(trials):
        trial = filling.ask()
        value = landscape.measure(_suggest(trial)) or 0.0
        asked.add_trial(optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=value))
    started_s = time.process_time()
    for _ in range(asks):
        trial = asked.ask()
        asked.tell(trial, landscape.measure(_suggest(trial)) or 0.0)
    return (time.process_time() - started_s) / asks * 1e3


def _suggest(trial: optuna.trial.Trial) -> dict[str, object]:
    return {
        "tp": trial.suggest_categorical("tp", [1, 2, 4]),
        "seqs": trial.suggest_int("seqs", 8, 1024, log=True),
        "toks": trial.suggest_int("toks", 256, 16384, log=True),
        "mem": trial.suggest_float("mem", 0.5, 0.99),
        "chunk": trial.suggest_categorical("chunk", [True, False]),
        "block": trial.suggest_categorical("block", [8, 16, 32]),
    }
