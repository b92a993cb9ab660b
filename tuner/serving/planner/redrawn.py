"""The same traffic drawn again: whether a promise is kept by more than the luck of one replay.

A percentile of some thousand requests has noise of its own, so a deployment whose margin is smaller than that noise would
win by the seed. Every deployment meets the same further draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from controlplane.model.choice import Slo
from controlplane.model.plans import PlanRequest, Prediction
from tuner.serving.planner.load import Draws, draw
from tuner.serving.planner.static import limits

# Draws beside the first one. A deployment that would break its promise in every second replay passes all five in one case
# of 32.
FURTHER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrawn:
    """`broken`: what the first draw that breaks the promise says; None where all keep it. `replays` counts the first."""

    broken: str | None
    replays: int
    spread: str


def redraws(request: PlanRequest, draws: Draws, *, in_turns: bool) -> list[tuple[PlanRequest, Draws]]:
    """The question with other seeds, and its traffic drawn with them. A trace stays as it is; only whom a request is sent
    to is drawn again."""
    out = []
    for number in range(1, FURTHER + 1):
        seed = int(np.random.SeedSequence((request.seed, number)).generate_state(1)[0])
        if request.workload.arrivals != "trace":
            again = draw(request.workload, seed, in_turns=in_turns)
        elif draws.thin is not None:
            again = replace(draws, thin=np.random.default_rng(seed).random(len(draws.thin)))
        else:
            return []  # a router that takes turns leaves nothing to chance
        out.append((request.model_copy(update={"seed": seed}), again))
    return out


def spread_of(predictions: Sequence[Prediction], slo: Slo) -> str:
    """`TTFT p95 181 to 204 ms, TPOT p95 32.8 to 33.1 ms`; empty where nothing is promised."""
    said = []
    for name, target in (("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms)):
        for point, _ in limits(target):
            each = (one.ttft_ms if name == "TTFT" else one.tpot_ms for one in predictions)
            values = [value for one in each if (value := getattr(one, point)) is not None]
            if values:
                digits = 0 if max(values) >= 100 else 1
                said.append(f"{name} {point} {min(values):,.{digits}f} to {max(values):,.{digits}f} ms")
    return ", ".join(said)
