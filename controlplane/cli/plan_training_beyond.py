"""Tables of what lies beside a training plan: theoretical plans, fewer nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuner.training.planner.beyond import Size, Theoretical


def theoretical_text(found: Theoretical) -> str:
    """The plans that no program launches, apart from those that can be."""
    from tuner.training.planner.beyond import NOTE  # noqa: PLC0415
    from tuner.training.planner.explain import summary  # noqa: PLC0415

    if not found.plans:
        return "Theoretical: nothing that the model can cost is faster."
    lines = [f"Theoretical ({NOTE}):"]
    lines += [f"  {item.predicted['iteration_s']:8.4g} s  {summary(item.plan)}" for item in found.plans]
    return "\n".join(lines)


def sizes_text(found: Sequence[Size]) -> str:
    """One line per number of accelerators; * where no other size is better in all of time, energy and cost."""
    from tuner.training.planner.explain import summary  # noqa: PLC0415

    lines = ["On fewer nodes (* no other size is better in time, energy and cost together):"]
    for size in found:
        if size.best is None:
            lines.append(f"  {size.accelerators:6d}  {size.message}")
            continue
        said = size.best.predicted
        energy, cost = said["energy_j"], said.get("cost_per_billion_tokens")
        parts = [f"{said['iteration_s']:.4g} s", "-" if energy is None else f"{energy / 1e6:.4g} MJ"]
        parts += [] if cost is None else [f"{cost:.4g} {said.get('currency') or ''}".rstrip() + " per 1e9 tokens"]
        lines.append(
            f"  {size.accelerators:6d} {'*' if size.on_front else ' '} {', '.join(parts)}: {summary(size.best.plan)}"
        )
    return "\n".join(lines)
