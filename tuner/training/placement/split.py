"""Layers per stage for a given order of classes: every bottleneck time tried at once, the rest filled greedily.

The iteration takes `sum t + (m - 1) max t + 2 hops`. The slowest stage's time is one of the few values `extra + cost x
layers`; under such a limit the cheapest split gives each further layer to the fastest stage with room, because a
stage's time is linear in its layers. So the best over all limits is the optimum: no branching, no solver.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.model.errors import InvalidSpec
from tuner.training.placement.fit import check_fits
from tuner.training.placement.problem import Placement, StageClass, check_hops, check_problem, one_f_one_b

_ROUNDING = 1e-9  # of a layer: a limit that is a stage's own time must admit that stage


@dataclass(frozen=True, slots=True)
class _Kind:
    """Stages that cannot be told apart: same time, same room."""

    extra_s: float
    layer_s: float
    most: int


def split(
    classes: Sequence[StageClass],
    layers: int,
    micro_batches: int,
    hop_s: Sequence[Sequence[float]],
    *,
    in_flight: Sequence[float] | None = None,
    least_layers: int = 1,
) -> Placement:
    """The fastest layers per stage, classes one after another in the order given; exact. `hop_s[i][j]` is one transfer
    from class i to class j, `in_flight` the micro-batches held per stage (1F1B unless given). Raises InvalidSpec, and
    Refused where nothing fits, with what is nearest to fitting."""
    check_problem(classes, layers, micro_batches)
    check_hops(hop_s, len(classes))
    stages = [index for index, each in enumerate(classes) for _ in range(each.stages)]
    held = one_f_one_b(len(stages), micro_batches) if in_flight is None else tuple(in_flight)
    if len(held) != len(stages) or any(not math.isfinite(each) or each < 0 for each in held):
        raise InvalidSpec("wrong shape", field="in_flight", value=len(held), limit=f"{len(stages)} numbers, 0 or more")
    if least_layers < 0:
        raise InvalidSpec("out of range", field="least_layers", value=least_layers, limit="0 or more")
    kinds = []
    for stage, index in enumerate(stages):
        first, last = stage == 0, stage == len(stages) - 1
        each = classes[index]
        most = each.most_layers(held[stage], first, last)
        kinds.append(_Kind(each.extra_s(first, last), each.layer_s, min(most, layers)))
    check_fits(classes, stages, held, [kind.most for kind in kinds], layers, least_layers)
    counts = _best(kinds, layers, micro_batches, least_layers)
    times = tuple(kind.extra_s + kind.layer_s * count for kind, count in zip(kinds, counts, strict=True))
    hops = sum(hop_s[left][right] for left, right in itertools.pairwise(stages))
    total = sum(times) + (micro_batches - 1) * max(times) + 2.0 * hops
    return Placement(
        classes=tuple(classes[index].name for index in stages),
        layers=tuple(counts),
        stage_s=times,
        hops_s=hops,
        iteration_s=total,
        bound_s=total,
        exact=True,
    )


def _best(kinds: Sequence[_Kind], layers: int, micro_batches: int, least: int) -> list[int]:
    """Layers of each stage. Ties go to the lower bottleneck, then to earlier stages."""
    groups: dict[_Kind, list[int]] = {}
    for stage, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(stage)
    order = sorted(groups, key=lambda kind: (kind.layer_s, kind.extra_s, kind.most))
    cost = np.array([kind.layer_s for kind in order])
    extra = np.array([kind.extra_s for kind in order])
    most = np.array([kind.most for kind in order])
    count = np.array([len(groups[kind]) for kind in order])
    limits = np.unique(
        np.concatenate([e + c * np.arange(least, k + 1) for c, e, k in zip(cost, extra, most, strict=True)])
    )
    limits = limits[limits >= (extra + cost * least).max()]  # below that some stage cannot hold its least
    upper = np.minimum(most, np.floor((limits[:, None] - extra) / cost + _ROUNDING))
    room = np.maximum(upper - least, 0.0) * count
    left = layers - least * int(count.sum())
    before = np.cumsum(room, axis=1) - room
    fill = np.clip(left - before, 0.0, room)
    total = fill @ cost + (micro_batches - 1) * limits
    total[fill.sum(axis=1) < left] = math.inf
    chosen = int(np.argmin(total))
    out = [least] * len(kinds)
    for index, kind in enumerate(order):
        share, rest = divmod(round(float(fill[chosen, index])), len(groups[kind]))
        for place, stage in enumerate(groups[kind]):
            out[stage] += share + (place < rest)
    return out
