"""Where intervals of measured patterns do not reach: what widens them, at least how far, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass

from controlplane.catalog import load
from controlplane.model.training import TrainingCase
from tuner.training.seats import stage_pools

# The one measured run over this many tokens and ring of ranks, Llama 3 405B at 131072 tokens, is 62 % off.
_LONG_TOKENS = 65_536
_LONG_RING_TOKENS = 32_768
_LONG = math.log(1.62)
# Accelerators without a fitted row: their shares of peak are borrowed, and a comparison with throughputs on such cards
# found predictions up to 55 % too fast.
_UNMEASURED = math.log(1.55)
_MEASURED = ("ampere", "hopper", "volta", "turing")  # architectures of the tables that intervals come from
_PRIORS = 2.0  # half-widths, relative to the pattern's own, where rates are priors


@dataclass(frozen=True, slots=True)
class Widening:
    """A logarithmic half-width at least, and the reason for it."""

    half_width: float
    reason: str


def widenings(case: TrainingCase, width: float) -> list[Widening]:
    """All that apply to a case whose pattern has this half-width."""
    found, plan, seq = list[Widening](), case.plan, case.model.seq
    if seq > _LONG_TOKENS or (plan.cp > 1 and seq > _LONG_RING_TOKENS):
        found.append(Widening(_LONG, f"sequences of {seq} tokens: one run as long was measured, 62 % off"))
    if plan.optimizer_offload != "none" or plan.offload_layers:
        found.append(Widening(_PRIORS * width, "offload rests on priors: twice as wide as without"))
    names = {load().accelerators[case.pools[pool].gpu].architecture for pool in stage_pools(case)}
    unknown = sorted(name for name in names if name.lower() not in _MEASURED)
    if unknown:
        found.append(
            Widening(_UNMEASURED, f"{', '.join(unknown)}: never fitted, and more likely too fast than too slow")
        )
    return [item for item in found if item.half_width > width]
