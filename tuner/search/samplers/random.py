"""Random settings: the yardstick, and what cannot be fooled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlplane.model.ports import Sampler
from controlplane.model.tuning import Proposal, Told
from tuner.search.question import Question


@dataclass(frozen=True, slots=True)
class RandomSampler:
    """Uniform over the allowed part of the space; logarithmic axes by their magnitude."""

    question: Question

    def tell(self, told: Told) -> None:
        """Nothing is learned."""

    def ask(self, number: int) -> Proposal:
        """From the seed and the number alone."""
        given = self.question.given(number)
        if given is not None:
            return given
        space = self.question.space
        rows = space.draw(np.random.default_rng((self.question.seed, number)), 1)
        return Proposal(setting=space.setting(rows, 0), reason="random")


def make(question: Question) -> Sampler:
    """The registry's entry."""
    return RandomSampler(question)
