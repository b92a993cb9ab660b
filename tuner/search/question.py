"""What a sampler is made from, and where samplers are found by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controlplane.model.ports import Sampler
from controlplane.model.registry import Registry
from controlplane.model.tuning import Objective, Proposal, Setting, Told
from tuner.search.space import Space

if TYPE_CHECKING:
    from tuner.search.fitted import Simulator


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`first`: settings measured before anything else (the one in use, the winners of earlier studies), `origins` where
    each is from. `cheap`: trials of a cheaper level (a predictor, short runs, other hardware), in the same objectives;
    samplers may use them. `cheap_note`: what that level is, or why there is none. `simulator`: fitted by the study's own
    trials; samplers may ask it, too."""

    space: Space
    objectives: tuple[Objective, ...]
    seed: int
    first: tuple[Setting, ...] = ()
    origins: tuple[str, ...] = ()
    cheap: tuple[Told, ...] = ()
    cheap_note: str = ""
    simulator: Simulator | None = None

    def given(self, number: int) -> Proposal | None:
        """The proposal of a trial that is not the sampler's to choose."""
        if number >= len(self.first):
            return None
        origin = self.origins[number] if number < len(self.origins) else "given"
        return Proposal(
            setting=self.space.checked(self.first[number]), reason=f"to start with: {origin}"[:512], full=True
        )


SamplerFactory = Callable[[Question], Sampler]

SAMPLERS: Registry[SamplerFactory] = Registry(
    "sampler",
    "trimtab.samplers",
    {
        "default": "tuner.search.samplers.default:make",
        "random": "tuner.search.samplers.random:make",
        "grid": "tuner.search.samplers.grid:make",
        "tpe": "tuner.search.samplers.tpe:make",
        "nsga2": "tuner.search.samplers.nsga2:make",
    },
)


def make_sampler(name: str, question: Question, *, field: str = "sampler") -> Sampler:
    """Raises UnknownName with the nearest known one."""
    return SAMPLERS.get(name, field=field)(question)
