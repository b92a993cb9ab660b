"""Runners and samplers that cost nothing: what remains is the service itself. For tests and benchmarks alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from controlplane.model.ports import StopSignal
from controlplane.model.tuning import LeasedTrial, Measurement, Outcome, Proposal, Setting, Told, Verdict
from controlplane.model.tuning_job import TuningSpec


@dataclass(frozen=True, slots=True)
class NullRunner:
    """Reports for each of the job's objectives a number that depends on the setting alone, after `seconds`."""

    seconds: float = 0.0

    def run(self, leased: LeasedTrial, spec: TuningSpec, *, stop: StopSignal) -> Outcome:
        if self.seconds and stop.wait(self.seconds):
            return Outcome(verdict=Verdict.INFRASTRUCTURE, reason="stopped")
        metrics: dict[str, float | None] = {one.metric: value_of(leased.setting) for one in spec.objectives}
        metrics |= {one.metric: 0.0 for one in spec.limits}
        measured = Measurement(metrics=metrics, definitions="null", duration_s=self.seconds, seed=leased.seed)
        return Outcome(verdict=Verdict.OK, measurement=measured)


@dataclass(slots=True)
class NullSampler:
    """Random whole numbers under one name, from seed and number alone."""

    seed: int
    name: str = "a"
    most: int = 1_000_000

    def tell(self, told: Told) -> None:
        """Nothing is learned."""

    def ask(self, number: int) -> Proposal:
        value = int(np.random.default_rng((self.seed, number)).integers(1, self.most))
        return Proposal(setting={self.name: value}, reason="random")


def value_of(setting: Setting) -> float:
    """A number above 0 that any process computes alike."""
    return int(digest_of(setting)[:8], 16) / 2**32 + 1e-9


def digest_of(setting: Setting) -> str:
    """The setting's own hash: nothing is resolved."""
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()
