"""Settings of the default sampler, and where they are from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultSettings:
    """`start`: trials that cover the space; those with p(ok) below `start_floor` go elsewhere. `floor`: lowest p(ok) of
    an ordinary ask; `edge_share` of the asks look down to `edge_floor`. `failure_cost`: the gain (of the logarithm)
    that a failed trial is worth avoiding. Below `least_gain` the two best are measured again, up to `times` each, then
    whatever promises most with p(ok) above `doubt_floor`. `pairs`: draws of lengths to average. Chosen on the landscape
    of tests/perf/oom_landscape.py, seeds 0 to 49."""

    start: int = 10
    start_floor: float = 0.15
    floor: float = 0.75
    edge_share: float = 0.03
    edge_floor: float = 0.4
    candidates: int = 384
    failure_cost: float = 0.015
    least_gain: float = 0.002
    times: int = 3
    doubt_floor: float = 0.85
    pairs: int = 3


# A memory model has kept most failures away already: what is left may cost more.
WITH_MARGINS = DefaultSettings(failure_cost=0.01)
