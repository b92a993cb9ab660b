"""A training plan as one HTML file: the plan, its memory, its schedule, the front, why not others, where numbers come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from controlplane.model.errors import Unsupported
from controlplane.model.training import TrainingCase
from tuner.axes import Floats
from tuner.bars import MAX_BARS, gantt, stacked
from tuner.page import page, pairs, table, warnings
from tuner.plot import Series, plot
from tuner.training.constants import Constants
from tuner.training.planner.answer import Ranked, TrainingAnswer
from tuner.training.planner.explain import summary
from tuner.training.planner.exports import EMITTERS, case_of, launch_of, shell
from tuner.training.planner.launchable import launchable
from tuner.training.planner.ranks import launch_stages, rank_runs
from tuner.training.planner.sources import sources
from tuner.training.room import usable_bytes
from tuner.training.seats import stage_pools
from tuner.training.timeline import picture

_GIB = 2.0**30
_PASSES = {
    "F": "forward", "B": "backward, inputs", "W": "backward, weights", "BW": "backward",
}  # fmt: skip


def html_report(
    answer: TrainingAnswer, constants: Constants, asked: Mapping[str, object], more: Sequence[str] = ()
) -> str:
    """The whole page. Everything from outside is escaped. `asked`: the question in the user's words; `more`: parts of
    the page that stand beside the answer."""
    winner = answer.best[0]
    case = case_of(answer, winner)
    parts = [
        pairs("What was asked", asked),
        _plans(answer),
        _proof(answer),
        warnings(winner.predicted["warnings"]),
        _time(answer),
        _memory(case, winner),
        _schedule(case, constants),
        _stages(case),
        _front(answer),
        _why_not(answer),
        *more,
        _launch(case),
        _sources(case, constants),
    ]
    return page(f"Training plan: {case.plan.ranks} accelerators, {answer.framework}", parts)


def _plans(answer: TrainingAnswer) -> str:
    joules, unit = _joules(answer.best)
    times = ("iteration, s", "90 % of runs, s", "MFU, %", "fullest stage, GiB", "bubble, %", "exposed communication, s")
    rows = [_row(item, joules) for item in answer.best]
    note = (
        "<p>The interval holds 90 % of measured runs of this pattern. Energy is a model, not a measurement. Runners-up "
        "inside the winner's interval may be faster in truth.</p>"
    )
    return f"<h2>The plans</h2>{table((*times, f'energy, {unit}', 'cost', 'plan'), rows)}{note}"


def _joules(items: Sequence[Ranked]) -> tuple[float, str]:
    """Joules of the unit that energies are told in, and its name."""
    most = max((item.predicted["energy_j"] or 0.0 for item in items), default=0.0)
    return (1e6, "MJ") if most >= 1e6 else (1e3, "kJ")


def _row(item: Ranked, joules: float) -> Sequence[object]:
    said = item.predicted
    energy, low, high = said["energy_j"], said["lo"], said["hi"]
    return (
        f"{said['iteration_s']:.4g}",
        None if low is None else f"{low:.3g} to {high:.3g}",
        f"{100 * said['mfu']:.1f}",
        f"{max(said['memory_bytes']) / _GIB:.1f}",
        f"{100 * said['bubble']:.1f}",
        f"{said['exposed_comm_s']:.3g}",
        None if energy is None else f"{energy / joules:.4g}{_span(said, joules)}",
        f"{said['cost_per_iteration']:.4g} {said['currency']}" if "cost_per_iteration" in said else None,
        summary(item.plan),
    )


def _span(said: Mapping[str, Any], joules: float) -> str:
    low, high = said["energy_lo_j"], said["energy_hi_j"]
    return "" if low is None else f" ({low / joules:.3g} to {high / joules:.3g})"


def _proof(answer: TrainingAnswer) -> str:
    proof = answer.proof
    if proof.cells_left and proof.gap is not None:
        text = f"Stopped early: a plan of the space may be up to {100 * proof.gap:.1f} % faster in this model."
    else:
        text = "Proven: no plan of the searched space is faster in this model."
    counted = f"{answer.cells} groups of plans, {answer.plans_costed} plans costed."
    return f"<p>{escape(text)} {escape(counted)}</p>"


def _time(answer: TrainingAnswer) -> str:
    names = [str(rank + 1) for rank in range(len(answer.best))]
    terms = {name: np.array([item.terms_s[name] for item in answer.best]) for name in answer.best[0].terms_s}
    return "<h2>Where the time goes</h2>" + stacked(
        "One iteration of each plan", "rank of the plan", "time, s", names, terms, limit=None
    )


def _memory(case: TrainingCase, winner: Ranked) -> str:
    parts = {name: np.array(values) / _GIB for name, values in winner.predicted["memory"].items()}
    limit = np.array([usable_bytes(case.pools[place]) for place in stage_pools(case)]) / _GIB
    stages = [str(stage) for stage in range(case.plan.pp)]
    drawn = stacked("Memory of the fullest rank", "stage", "memory, GiB", stages, parts, limit=limit)
    rows = [
        (stage, f"{total / _GIB:.2f}", *(f"{values[stage]:.2f}" for values in parts.values()))
        for stage, total in enumerate(winner.predicted["memory_bytes"][:MAX_BARS])
    ]
    head = ("stage", "all, GiB", *(f"{name}, GiB" for name in parts))
    note = "<p>The dashed line is what a plan may fill: the memory less the reserve.</p>"
    return f"<h2>Memory</h2>{drawn}{note}{table(head, rows)}"


def _schedule(case: TrainingCase, constants: Constants) -> str:
    found = picture(case, constants)
    head = "<h2>Schedule</h2>"
    if found is None:
        return f"{head}<p>{case.plan.pp} stages of {case.plan.micro_batches} micro-batches are too many to draw.</p>"
    bars: dict[str, list[tuple[int, float, float]]] = {name: [] for name in _PASSES.values()}
    for stage, row in enumerate(found.timeline.stages):
        for bar in row:
            bars[_PASSES[bar.kind]].append((stage, bar.start_s, bar.end_s))
    left = "" if found.micro_batches == found.of else (
        f" {found.micro_batches} of {found.of} micro-batches are drawn; the others repeat the middle."
    )  # fmt: skip
    text = (
        f"<p>{escape(case.plan.schedule)}, {case.plan.pp} stages of {case.plan.vpp} chunks: the drawn pipeline takes "
        f"{found.timeline.seconds:.4g} s, gradients and optimizer come after it.{left}</p>"
    )
    return head + gantt("Who does what", "time, s", "stage", [str(at) for at in range(case.plan.pp)], bars) + text


def _stages(case: TrainingCase) -> str:
    rows = [
        (number, stage.layers, stage.pool, f"{stage.first_rank} to {stage.first_rank + stage.ranks - 1}")
        for number, stage in enumerate(launch_stages(case, case.plan)[:MAX_BARS])
    ]
    runs = [
        (
            f"{run.first_rank} to {run.first_rank + run.ranks - 1}", run.pool,
            f"{run.first_node} to {run.first_node + -(-run.ranks // run.per_node) - 1}", run.per_node,
        )
        for run in rank_runs(case, case.plan)[:MAX_BARS]
    ]  # fmt: skip
    stages = table(("stage", "layers", "pool", "ranks"), rows)
    return f"<h2>Stages and ranks</h2>{stages}{table(('ranks', 'pool', 'nodes', 'ranks on a node'), runs)}"


def _front(answer: TrainingAnswer) -> str:
    known = [item for item in answer.kept if item.predicted["energy_j"] is not None]
    if not known:
        return ""
    front = [item for item in answer.front if item in known]
    joules, unit = _joules(known)
    series = [
        Series("front", *_points(front, "energy_j", joules), "step"),
        Series("plans that fit", *_points(known, "energy_j", joules), "points"),
    ]
    text = (
        f"<p>Of the {answer.front_of} fastest plans that fit, those that no other of them beats in both.</p>"
    )  # fmt: skip
    drawn = plot(
        "Time against energy (a model)", "iteration, s", f"energy of an iteration, {unit}", series, from_zero=False
    )
    priced = [item for item in known if "cost_per_iteration" in item.predicted]
    if priced:
        currency = priced[0].predicted["currency"]
        points = [Series("plans that fit", *_points(priced, "cost_per_iteration", 1.0), "points")]
        drawn += plot("Time against cost", "iteration, s", f"cost of an iteration, {currency}", points, from_zero=False)
    return f"<h2>Time, energy, cost</h2>{drawn}{text}"


def _points(items: Sequence[Ranked], name: str, unit: float) -> tuple[Floats, Floats]:
    ordered = sorted(items, key=lambda item: float(item.predicted["iteration_s"]))
    x = np.array([item.predicted["iteration_s"] for item in ordered], dtype=np.float64)
    return x, np.array([item.predicted[name] / unit for item in ordered], dtype=np.float64)


def _why_not(answer: TrainingAnswer) -> str:
    if not answer.why_not:
        return ""
    rows = [(summary(item.plan), f"{item.iteration_s:.4g}", item.message) for item in answer.why_not]
    return f"<h2>Why not</h2>{table(('plan', 'iteration, s', 'reason'), rows, words=True)}"


def _launch(case: TrainingCase) -> str:
    parts = ["<h2>How to start it</h2>"]
    for target in EMITTERS:
        try:
            parts.append(f"<h3>{target}</h3><pre>{escape(shell(launch_of(target, case, case.plan)))}</pre>")
        except Unsupported as error:
            parts.append(f"<p>{target}: {escape(str(error))}</p>")
    return "".join(parts)


def _sources(case: TrainingCase, constants: Constants) -> str:
    rows = [(item.name, item.value, item.origin) for item in sources(case, launchable(case.plan.framework), constants)]
    return f"<h2>Where the numbers come from</h2>{table(('what', 'value', 'source'), rows, words=True)}"
