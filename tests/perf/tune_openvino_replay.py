"""Studies replayed on the recorded grid: how many trials until a sampler has tried one of the good settings.

A trial on a cell draws one of the cell's runs. A cell is good when the mean of its runs is at least 95 % of the best
cell's. A study that tried as many settings as the grid has cells and none of them good ends there and counts as that
many: `censored`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import optuna

from controlplane.model.ports import Sampler
from controlplane.model.tuning import Objective, Setting, Told, Verdict
from controlplane.model.tuning_job import StartPoint
from controlplane.tuning_jobs import sampler_of
from tests.perf.tune_openvino import FIXED, METRIC, Bench
from tuner.search.question import Question, make_sampler
from tuner.search.samplers.default import DefaultSampler
from tuner.search.space import Space, compile_space

Arm = Literal["default", "unfitted", "tpe", "random"]


@dataclass(frozen=True, slots=True)
class Ran:
    """A run of a cell as a study meets it: goodput, None where the engine failed; the figures and the seed that a sampler
    is told beside it."""

    value: float | None
    figures: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0


Draw = Callable[[Setting], Ran]

GOOD_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Grid:
    """Runs of each cell, by `key_of`: goodput, or None where the engine failed."""

    bench: Bench
    runs: Mapping[str, tuple[float | None, ...]]
    told: Mapping[str, tuple[Ran, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lacking = [cell for cell in self.bench.cells() if not self.runs.get(key_of(cell))]
        if lacking:
            raise ValueError(f"{len(lacking)} cells of grid {self.bench.name} have no run, {lacking[0]} for one")

    def mean(self, cell: Setting) -> float:
        """A failed run is worth nothing."""
        runs = self.runs[key_of(cell)]
        return sum(value or 0.0 for value in runs) / len(runs)

    def good(self) -> frozenset[str]:
        """Cells that a search is to find."""
        means = {key_of(cell): self.mean(cell) for cell in self.bench.cells()}
        best = max(means.values())
        return frozenset(key for key, mean in means.items() if mean >= GOOD_SHARE * best)

    def attainment_of(self, rows: Sequence[Mapping[str, Any]]) -> float:
        """Share of the requests of these runs that kept the limits."""
        kept = [one for row in rows for one in keeps(self.bench, row)]
        return sum(kept) / len(kept)


@dataclass(frozen=True, slots=True)
class Found:
    """`trials` until a good cell was tried, that one counted."""

    trials: int
    censored: bool


def key_of(setting: Setting) -> str:
    """A cell's name: what differs between cells."""
    return json.dumps({name: value for name, value in setting.items() if name not in FIXED}, sort_keys=True)


def keeps(bench: Bench, row: Mapping[str, Any]) -> list[bool]:
    """Which requests of a recorded run kept the limits."""
    assert bench.slo.ttft_ms is not None and bench.slo.tpot_ms is not None
    return [
        ttft is not None and tpot is not None and ttft <= bench.slo.ttft_ms and tpot <= bench.slo.tpot_ms
        for ttft, tpot in zip(row["ttft_ms"], row["tpot_ms"], strict=True)
    ]


def grid_of(bench: Bench, recorded: Mapping[str, Any]) -> Grid:
    """The grid from what was recorded. Runs that nobody believed are left out, as a job would not tell them."""
    runs: dict[str, list[Ran]] = {}
    for row in recorded["runs"]:
        if row["verdict"] == Verdict.OK.value:
            ran = Ran(sum(keeps(bench, row)) / row["duration_s"], figures_of(row), row.get("repeat", 0))
        elif row["verdict"] == Verdict.INFEASIBLE.value:
            ran = Ran(None, seed=row.get("repeat", 0))
        else:
            continue
        runs.setdefault(key_of(row["setting"]), []).append(ran)
    values = {key: tuple(ran.value for ran in rans) for key, rans in runs.items()}
    return Grid(bench, values, {key: tuple(rans) for key, rans in runs.items()})


def figures_of(row: Mapping[str, Any]) -> dict[str, float]:
    """What a measurement tells beside the goodput, from the times that were kept of each request."""
    out = {"requests_per_s": sum(value is not None for value in row["ttft_ms"]) / row["duration_s"]}
    for name in ("ttft", "tpot"):
        known = [value for value in row[f"{name}_ms"] if value is not None]
        if known:
            out[f"{name}_mean_ms"] = float(np.mean(known))
            out |= {f"{name}_p{percent}_ms": float(np.percentile(known, percent)) for percent in (50, 90)}
    return out


def study(grid: Grid, arm: Arm, seed: int, *, earlier: Setting | None = None) -> Found:
    """One search; the same seed gives the same study. `earlier`: what a job on another workload handed over; measured
    first, as far as this grid has it."""
    good, draw = grid.good(), _drawn(grid, seed)
    cells = grid.bench.cells()
    space = compile_space(grid.bench.space())
    search = _tpe(cells, space, draw, seed) if arm == "tpe" else _ours(grid.bench, space, draw, seed, arm, earlier)[0]
    for number in range(len(cells)):
        if key_of(search(number)) in good:
            return Found(number + 1, False)
    return Found(len(cells), True)


def handed_over(grid: Grid, seed: int, trials: int = 20) -> Setting | None:
    """What a job of so many trials would recommend."""
    space = compile_space(grid.bench.space())
    ask, sampler = _ours(grid.bench, space, _drawn(grid, seed), seed, "default")
    for number in range(trials):
        ask(number)
    assert isinstance(sampler, DefaultSampler)
    return sampler.recommend()


def _drawn(grid: Grid, seed: int) -> Draw:
    """Each trial is one of the cell's runs."""
    rng = np.random.default_rng((seed, 0x0712))

    def draw(setting: Setting) -> Ran:
        key = key_of(setting)
        place = int(rng.integers(len(grid.runs[key])))
        return grid.told[key][place] if key in grid.told else Ran(grid.runs[key][place])

    return draw


def _ours(
    bench: Bench, space: Space, draw: Draw, seed: int, arm: Arm, earlier: Setting | None = None
) -> tuple[Callable[[int], Setting], Sampler]:
    """A sampler of the product, asked as a job asks it: `default` as the job gets it, the others with nothing known."""
    if arm == "default":
        start = [] if earlier is None else [StartPoint(setting=earlier, origin="an earlier job")]
        spec = bench.spec("the engine's own", seed=seed).model_copy(update={"start_with": start})
        sampler = sampler_of(spec)
    else:
        name = "default" if arm == "unfitted" else arm
        sampler = make_sampler(name, Question(space=space, objectives=(Objective(metric=METRIC),), seed=seed))

    def ask(number: int) -> Setting:
        setting = sampler.ask(number).setting
        ran = draw(setting)
        told = Told(number=number, setting=setting, verdict=Verdict.INFEASIBLE)
        if ran.value is not None:
            found = {"verdict": Verdict.OK, "values": [ran.value], "figures": dict(ran.figures), "seed": ran.seed}
            told = told.model_copy(update=found)
        sampler.tell(told)
        return setting

    return ask, sampler


def _tpe(cells: Sequence[Setting], space: Space, draw: Draw, seed: int) -> Callable[[int], Setting]:
    """Optuna's TPE with its defaults in one study, one trial at a time. Its tree has the levels that the rules leave
    after the choices above, by their place as whole numbers: it knows their order and never proposes against a rule."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    asked = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))

    def ask(number: int) -> Setting:
        trial = asked.ask()
        setting = _suggested(cells, space, trial)
        asked.tell(trial, draw(setting).value or 0.0)
        return setting

    return ask


def _suggested(cells: Sequence[Setting], space: Space, trial: optuna.trial.Trial) -> Setting:
    """One value after the other; a range of its own for every set of levels."""
    left = list(cells)
    for axis in space.axes:
        levels = [value for value in axis.choices if any(cell.get(axis.name) == value for cell in left)]
        if not levels:
            continue
        name = f"{axis.name} of {levels}"
        if len(levels) == 1:
            place = 0
        elif isinstance(levels[0], bool):
            place = int(trial.suggest_categorical(name, list(range(len(levels)))) or 0)
        else:
            place = trial.suggest_int(name, 0, len(levels) - 1)
        left = [cell for cell in left if cell.get(axis.name) == levels[place]]
    (found,) = left
    return found


def ratio_interval(
    ours: Sequence[Sequence[Found]], theirs: Sequence[Sequence[Found]], *, draws: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean trials of ours over mean trials of theirs, and its 90 % bootstrap interval over the seeds. One sequence per
    workload: of several, the means are added, so that each workload counts by the trials it takes."""
    rng = np.random.default_rng(seed)
    of = [[np.array([one.trials for one in arm], np.float64) for arm in arms] for arms in (ours, theirs)]
    drawn = [sum(arm[rng.integers(len(arm), size=(draws, len(arm)))].mean(axis=1) for arm in arms) for arms in of]
    value = sum(float(arm.mean()) for arm in of[0]) / sum(float(arm.mean()) for arm in of[1])
    low, high = np.percentile(np.asarray(drawn[0]) / np.asarray(drawn[1]), (5, 95))
    return value, float(low), float(high)
