"""Searches replayed on the recorded grids with short runs: what they save, and which trials they end.

A trial on a cell draws one of its recorded runs, of which each request's times are kept. The first trial is the default
setting, the others are the default sampler's; the first requests of a run are held against the bar as a worker would. A
run that is cut costs its first requests and those that were under way by then.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from controlplane.model.tuning import Objective, Setting, TrialPurpose, TrialState
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_records import MeasuredTrial, TrialRecord, told_of
from tests.perf.tune_openvino import METRIC, Bench
from tests.perf.tune_openvino_replay import Grid, keeps, key_of
from tests.unit.store.conftest import NOW
from tuner.best_so_far import BestSoFar
from tuner.measure.loadgen.early import Early
from tuner.measure.loadgen.plan import Rows, rows_of
from tuner.measure.short import short_requests, short_run
from tuner.measure.trial import warm_up_of
from tuner.search.question import Question, make_sampler
from tuner.search.space import compile_space

TRIALS = 20


@dataclass(frozen=True, slots=True)
class Replayed:
    """One search. `used` and `whole`: requests sent, and those of a search without short runs. `good`: trials on cells
    whose mean is within 5 % of the best; `lost`: those of them that were cut."""

    trials: int
    cut: int
    good: int
    lost: int
    used: int
    whole: int


@dataclass(frozen=True, slots=True)
class Runs:
    """Believed runs of a grid by cell, and the requests of each repeat."""

    bench: Bench
    spec: TuningSpec
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    asked: Mapping[int, Rows]


def runs_of(bench: Bench, recorded: Mapping[str, Any]) -> Runs:
    """Runs that reached nothing (the engine failed) are left out: short runs have no part in them."""
    spec = bench.spec("m")
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for row in recorded["runs"]:
        if row["verdict"] == "ok":
            rows.setdefault(key_of(row["setting"]), []).append(row)
    count = warm_up_of(spec) + spec.measuring.requests
    repeats = sorted({row["repeat"] for row in recorded["runs"]})
    return Runs(bench, spec, rows, {repeat: rows_of(spec.load, count, repeat) for repeat in repeats})


def search(runs: Runs, grid: Grid, seed: int) -> Replayed:
    """The same seed gives the same search."""
    spec, rng, good_cells = runs.spec, np.random.default_rng((seed, 0x5407)), grid.good()
    question = Question(space=compile_space(runs.bench.space()), objectives=(Objective(metric=METRIC),), seed=seed)
    sampler = make_sampler("default", question)
    best = BestSoFar(spec)
    cut = good = lost = used = whole = 0
    for number in range(TRIALS):
        setting = runs.bench.default() if number == 0 else sampler.ask(number).setting
        key = key_of(setting)
        row = runs.rows[key][int(rng.integers(len(runs.rows[key])))]
        bar = best.bar(key)
        look = short_run(spec, bar, {})
        early = early_of(runs, row)
        first = short_requests(spec) or len(early)
        short = look is not None and look.enough(early[:first], runs.asked[row["repeat"]])
        sent = sent_by(runs, early, first) if short else spec.measuring.requests
        record = trial(number, setting, key, value_of(runs, row, sent), sent / spec.measuring.requests)
        known = [one.last_s - one.intended_s for one in early if one.last_s is not None]
        figures = {"e2e_mean_ms": 1e3 * sum(known) / len(known)} if known else {}
        best.hear(MeasuredTrial.model_construct(**dict(record), figures=figures))
        sampler.tell(told_of(record))
        cut += record.short
        good += key in good_cells
        lost += key in good_cells and record.short
        used += warm_up_of(spec) + sent
        whole += warm_up_of(spec) + spec.measuring.requests
    return Replayed(TRIALS, cut, good, lost, used, whole)


def early_of(runs: Runs, row: Mapping[str, Any]) -> list[Early]:
    """The measured requests as a load process tells of them. Of a closed loop only what each took counts."""
    warm_up, asked = warm_up_of(runs.spec), runs.asked[row["repeat"]]
    out = []
    for place, (ttft_ms, tpot_ms) in enumerate(zip(row["ttft_ms"], row["tpot_ms"], strict=True)):
        number = warm_up + place
        at_s = 0.0 if runs.spec.load.arrivals == "closed" else asked[number][0]
        if ttft_ms is None or tpot_ms is None:
            out.append(Early(number, at_s, None, None, failed=True))
            continue
        first_s = at_s + ttft_ms / 1e3
        out.append(Early(number, at_s, first_s, first_s + tpot_ms / 1e3 * (asked[number][2] - 1)))
    return out


def sent_by(runs: Runs, early: Sequence[Early], first: int) -> int:
    """Requests that have gone out when the first ones are answered."""
    most = len(early)
    if runs.spec.load.arrivals == "closed":
        return min(most, first + (runs.spec.load.concurrency or 0) - 1)
    over_s = max((one.last_s for one in early[:first] if one.last_s is not None), default=math.inf)
    return max(first, sum(one.intended_s <= over_s for one in early))


def value_of(runs: Runs, row: Mapping[str, Any], sent: int) -> float:
    """Goodput of the first `sent` requests, at the rate of the whole run."""
    kept = keeps(runs.bench, row)
    return sum(kept[:sent]) / (float(row["duration_s"]) * sent / len(kept))


def trial(number: int, setting: Setting, key: str, value: float, share: float) -> TrialRecord:
    return TrialRecord(
        job="j", number=number, state=TrialState.DONE, purpose=TrialPurpose.SEARCH, setting=setting,
        canonical=key, why="", seed=number, attempt=1, lost=0, asked_at=NOW, objectives=[value], violation=[], share=share,
    )  # fmt: skip


def read_grid(path: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
