"""Parts of a report that stand beside the answer: what-ifs, other sizes of the job, plans that nothing launches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tuner.page import pairs, table
from tuner.plot import Series, plot
from tuner.training.planner.beyond import NOTE, Size, Theoretical
from tuner.training.planner.explain import summary
from tuner.training.planner.whatif import Difference


def beside(
    differences: Sequence[Difference],
    theoretical: Theoretical | None,
    sizes: Sequence[Size] | None,
    failures: Mapping[str, Any] | None = None,
) -> list[str]:
    """The parts that there are, as HTML."""
    parts = []
    if differences:
        rows = [(item.change, item.message, item.after) for item in differences]
        parts.append(f"<h2>What if</h2>{table(('change', 'effect', 'best plan then'), rows, words=True)}")
    if sizes is not None:
        parts.append(_sizes(sizes))
    if failures is not None:
        parts.append(_failures(failures))
    if theoretical is not None:
        plans = [(f"{item.predicted['iteration_s']:.4g}", summary(item.plan)) for item in theoretical.plans]
        shown = table(("iteration, s", "plan"), plans, words=True) if plans else "<p>Nothing is faster.</p>"
        parts.append(f"<h2>Theoretical</h2><p>Plans {NOTE}.</p>{shown}")
    return parts


def _failures(found: Mapping[str, Any]) -> str:
    interval, mtbf = found["checkpoint_interval_s"], found["mtbf_s"]
    text = pairs(
        "Failures",
        {
            "failures per 1000 node-days": f"{1000 * found['failures_per_node_day']:.3g} ({found['source']})",
            "nodes": found["nodes"],
            "hours between failures": None if mtbf is None else mtbf / 3600.0,
            "checkpoint, GB": found["checkpoint_bytes"] / 1e9,
            "written every, min": None if interval is None else interval / 60.0,
            "share of time that trains, %": 100.0 * found["ettr"],
            "tokens per second that stay": found["tokens_per_s"],
            "spare nodes": found["spare_nodes"],
        },
    )
    rules = [
        (rule["rule"], rule["slowdown_one_lost"], rule["recovery_s"], f"{100 * rule['share']:.2f}", rule["source"])
        for rule in found["rules"]
    ]
    head = ("going on without the node", "times as long", "standing still, s", "share kept, %", "after")
    again = [
        (item["pool"], item.get("slowdown"), item.get("error") or item.get("plan")) for item in found["after_loss"]
    ]
    text += "<p>All of it is a model; the rules are estimates from their papers' ideas.</p>" + table(head, rules)
    return text + table(("one node less in", "times as long", "plan then"), again)


def _sizes(sizes: Sequence[Size]) -> str:
    known = [size for size in sizes if size.best is not None and size.best.predicted["energy_j"] is not None]
    seconds = _column(known, "iteration_s")
    drawn = plot(
        "Fewer nodes: time against energy (a model)", "iteration, s", "energy of an iteration, kJ",
        [Series("sizes", seconds, _column(known, "energy_j") / 1e3, "points")], from_zero=False,
    )  # fmt: skip
    rows = [
        (size.accelerators, *_row(size), "yes" if size.on_front else "no") if size.best is not None
        else (size.accelerators, None, None, None, size.message, "no")
        for size in sizes
    ]  # fmt: skip
    head = ("accelerators", "iteration, s", "energy, kJ", "cost of 1e9 tokens", "plan", "on the front")
    return f"<h2>On fewer nodes</h2>{drawn}{table(head, rows)}"


def _row(size: Size) -> tuple[object, ...]:
    assert size.best is not None
    said = size.best.predicted
    energy, cost = said["energy_j"], said.get("cost_per_billion_tokens")
    return (
        f"{said['iteration_s']:.4g}",
        None if energy is None else f"{energy / 1e3:.4g}",
        None if cost is None else f"{cost:.4g} {said['currency']}",
        summary(size.best.plan),
    )


def _column(sizes: Sequence[Size], name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = [float(size.best.predicted[name]) for size in sizes if size.best is not None]
    return np.array(values, dtype=np.float64)
