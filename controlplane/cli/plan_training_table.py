"""The answer of `trimtab plan training` for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuner.training.planner.answer import Ranked, TrainingAnswer
    from tuner.training.planner.whatif import Difference

_GIB = 2**30
_HEAD = ("iteration", "90 % of runs", "MFU", "memory", "bubble", "exposed", "energy", "cost of 1e9 tokens", "plan")
_COST = _HEAD.index("cost of 1e9 tokens")


def table(answer: TrainingAnswer) -> str:
    """The best plans, where the winner's time goes, the proof, the front, and why not others."""
    from tuner.training.planner.explain import summary  # noqa: PLC0415

    model, proof = answer.case.model, answer.proof
    hardware = " + ".join(f"{pool.gpus} x {pool.gpu}" for pool in answer.case.pools)
    lines = [
        f"{hardware}, {answer.case.plan.global_batch} sequences of {model.seq} tokens, {answer.case.plan.precision}, {answer.framework}",
        "",
        *_plans(answer.best),
        "",
    ]
    winner = answer.best[0]
    if winner.stage_pools:
        names = [pool.name or pool.gpu for pool in answer.case.pools]
        lines.append("Its stages: " + ", ".join(
            f"{first}{f' to {last}' if last > first else ''} on {names[pool]}"
            for pool, first, last in _blocks(winner.stage_pools)
        ))  # fmt: skip
    lines.append(_memory(answer))
    whole = winner.predicted["iteration_s"]
    lines.append("The winner's iteration (exposed: communication that nothing hides):")
    lines += [f"  {100 * took / whole:5.1f} %  {took:8.3g} s  {name}" for name, took in winner.terms_s.items()]
    assert proof.gap is not None and proof.bound_s is not None
    if proof.cells_left:
        why = "early" if answer.stopped_after_s is None else f"after {answer.stopped_after_s:g} s (--limit)"
        lines.append(f"Stopped {why}: a plan may be up to {100 * proof.gap:.1f} % faster ({proof.bound_s:.4g} s).")
    else:
        lines.append("Proven: no plan of the space is faster in this model.")
    lines.append(
        f"{answer.cells} groups of plans, {answer.cells_out_of_memory} out of memory as a whole, "
        f"{answer.plans_costed} plans costed."
    )
    if len(answer.front) > 1:
        lines += ["", f"Less energy for more time (a model), among the {answer.front_of} fastest:"]
        lines += ["  " + line for line in _plans(answer.front)]
    if answer.why_not:
        lines += ["", "Why not:"]
        lines += ["  " + line for line in _aligned([(summary(item.plan), item.message) for item in answer.why_not])]
    lines += [f"warning: {text}" for text in winner.predicted["warnings"]]
    return "\n".join(lines)


def _memory(answer: TrainingAnswer) -> str:
    """The winner's fullest stage against what it may fill, and what is left free."""
    from tuner.training.room import reserve_basis, reserve_share  # noqa: PLC0415

    said = answer.best[0].predicted
    stage = max(
        range(len(said["memory_bytes"])), key=lambda at: said["memory_bytes"][at] - said["memory_limit_bytes"][at]
    )
    needs, low, high, limit = (said[name][stage] / _GIB for name in _MEMORY)
    shares = sorted({reserve_share(pool) for pool in answer.case.pools})
    default = all(pool.memory_reserve is None for pool in answer.case.pools)
    return (
        f"Its memory, stage {stage}: {needs:.1f} GiB ({low:.1f} to {high:.1f}) of {limit:.1f} that a plan may fill; "
        f"{', '.join(f'{100 * share:.3g}' for share in shares)} % stay free"
        f"{f' ({reserve_basis()})' if default else ''}."
    )


_MEMORY = ("memory_bytes", "memory_lo_bytes", "memory_hi_bytes", "memory_limit_bytes")


def _blocks(stage_pools: Sequence[int]) -> list[tuple[int, int, int]]:
    """Pool, first and last stage of every run of stages on one pool."""
    found: list[tuple[int, int, int]] = []
    for stage, pool in enumerate(stage_pools):
        if found and found[-1][0] == pool:
            found[-1] = (pool, found[-1][1], stage)
        else:
            found.append((pool, stage, stage))
    return found


def what_if_text(change: str, found: Difference) -> str:
    """What a change makes, in a few lines."""
    lines = [f"what if {change}: {found.message}"]
    if found.after is None:
        return lines[0]
    if found.after != found.before:
        lines.append(f"  {found.after} instead of {found.before}")
    for name, (label, unit, scale) in _NUMBERS.items():
        before, after = found.numbers.get(name, (None, None))
        if before is not None or after is not None:
            one, two = ("unknown" if value is None else f"{value / scale:,.4g}" for value in (before, after))
            lines.append(f"  {label}: {one} to {two}{unit}")
    return "\n".join(lines)


_NUMBERS = {
    "iteration_s": ("iteration", " s", 1.0), "mfu": ("MFU", " %", 0.01), "energy_j": ("energy", " kJ", 1e3),
    "cost_per_billion_tokens": ("cost of 1e9 tokens", "", 1.0),
}  # fmt: skip


def _plans(items: Sequence[Ranked]) -> list[str]:
    rows = [_HEAD, *(_row(item) for item in items)]
    if all(row[_COST] == "-" for row in rows[1:]):
        rows = [(*row[:_COST], *row[_COST + 1 :]) for row in rows]
    return _aligned(rows)


def _row(item: Ranked) -> tuple[str, ...]:
    from tuner.training.planner.explain import summary  # noqa: PLC0415

    said = item.predicted
    low, high, energy = said["lo"], said["hi"], said["energy_j"]
    return (
        f"{said['iteration_s']:.4g} s",
        "-" if low is None else f"{low:.3g} to {high:.3g} s",
        f"{100 * said['mfu']:.1f} %",
        f"{max(said['memory_bytes']) / _GIB:.1f} GiB{' tight' if said['tight'] else ''}",
        f"{100 * said['bubble']:.1f} %",
        f"{said['exposed_comm_s']:.3g} s",
        "-" if energy is None else f"{energy / 1e6:.4g} MJ" if energy >= 1e5 else f"{energy / 1e3:.4g} kJ",
        f"{said['cost_per_billion_tokens']:,.4g} {said['currency']}" if "currency" in said else "-",
        summary(item.plan),
    )


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
