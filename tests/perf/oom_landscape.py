"""A made-up engine with an out-of-memory edge beside its best configuration: six parameters, 3 % noise, maximise."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.model.tuning import ChoiceParameter, FloatParameter, IntParameter, Margin, SearchSpace

TRIALS = 60
NOISE = 0.03
DEVICE_GB = 24.0

PARAMETERS = (
    ChoiceParameter(name="tp", values=[1, 2, 4]),
    IntParameter(name="seqs", low=8, high=1024, log=True),
    IntParameter(name="toks", low=256, high=16384, log=True),
    FloatParameter(name="mem", low=0.5, high=0.99),
    ChoiceParameter(name="chunk", values=[True, False]),
    ChoiceParameter(name="block", values=[8, 16, 32]),
)


def space(precheck_seed: int | None = None) -> SearchSpace:
    """The space; with a seed also a coarse memory model: each coefficient wrong by up to 10 %, and nothing of the rule
    that memory share and token budget share one limit."""
    if precheck_seed is None:
        return SearchSpace(parameters=list(PARAMETERS))
    off = random.Random(1_000_000 + precheck_seed)
    weights, tokens, sequences = (value * off.uniform(0.9, 1.1) for value in (16.0, 0.0006, 0.004))
    need = f"{weights!r} / tp + toks * {tokens!r} * (1 if chunk else 2) + seqs * {sequences!r}"
    margin = Margin(expression=f"24 * mem - ({need}) - 1", slack=1.0, message="no memory is left for the KV cache")
    return SearchSpace(parameters=list(PARAMETERS), margins=[margin])


def truth(x: Mapping[str, Any]) -> float | None:
    """Noise-free value; None where it runs out of memory."""
    tp, seqs, toks, mem, chunk = int(x["tp"]), int(x["seqs"]), int(x["toks"]), float(x["mem"]), bool(x["chunk"])
    need = 16 / tp + toks * 0.0006 * (1 if chunk else 2) + seqs * 0.004
    kv = 24 * mem - need
    if kv < 1.0 or need > 24 * 0.97 - 24 * mem * 0.02 or 24 * mem + toks * 0.0003 > 23.6:
        return None
    conc = min(seqs, 24 * kv)
    block = {8: 0.97, 16: 1.0, 32: 0.99}[int(x["block"])]
    thr: float = (
        tp**0.72 * 120 * conc / (conc + 40) * (1 - 0.25 * math.exp(-toks / 2500)) * (1.06 if chunk else 1.0) * block
    )
    return float(thr / tp**0.5)


@dataclass(slots=True)
class Landscape:
    """Measurements of one study. Noise is drawn only for what works."""

    seed: int
    wasted: int = 0
    best: float = 0.0
    _rng: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def measure(self, x: Mapping[str, Any]) -> float | None:
        """A noisy value; None for out of memory."""
        value = truth(x)
        if value is None:
            self.wasted += 1
            return None
        self.best = max(self.best, value)
        return value * (1 + self._rng.gauss(0, NOISE))
