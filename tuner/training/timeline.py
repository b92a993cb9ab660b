"""The pipeline of one plan on the clock, for a picture: every pass of as many micro-batches as can be told apart."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controlplane.model.training import FOLDED, TrainingCase
from tuner.training.columns import columns
from tuner.training.constants import Constants
from tuner.training.evaluate import layer_counts
from tuner.training.folded import folded_order
from tuner.training.iteration import stage_parts
from tuner.training.seats import stage_pools
from tuner.training.simulate import Pass, Stage, Timeline, delayed_order, fixed_order, simulate, zero_bubble
from tuner.training.staged import stage_work

_MOST_PASSES = 6_000  # of a picture: more are thinner than a pixel, and a megabyte
_ROUNDS = 3  # micro-batches per stage that show warm-up, steady state and drain


@dataclass(frozen=True, slots=True)
class Picture:
    """A timeline of the first `micro_batches` of `of`; the ones left out repeat the middle."""

    timeline: Timeline
    micro_batches: int
    of: int


def picture(case: TrainingCase, constants: Constants) -> Picture | None:
    """The plan's schedule. Transfers all take as long as the longest. None where the pipeline is too long to draw."""
    plan = case.plan
    p, m, v = plan.pp, plan.micro_batches, plan.vpp
    # Interleaved groups are p micro-batches, so a shorter picture takes whole groups.
    shown = min(m, max(_ROUNDS * p, 4))
    while shown > p and 3 * p * shown * v > _MOST_PASSES:
        shown -= p
    if 3 * p * shown * v > _MOST_PASSES:
        return None
    short = replace(case, plan=replace(plan, global_batch=shown * plan.dp * plan.micro_batch))
    stages, hop = _stages(case, constants)
    return Picture(_timeline(short, stages, 0.0 if plan.overlap_pp else hop), shown, m)


def _stages(case: TrainingCase, constants: Constants) -> tuple[list[Stage], float]:
    c = columns([(case, pool) for pool in stage_pools(case)], tuple(constants.accelerators))
    parts = stage_parts(c, constants)
    layers = np.array([layer_counts(case)], dtype=np.float64)
    forward, backward = (part[0] for part in stage_work(c, layers, parts, layers.shape))
    # Only zero-bubble schedules run weight gradients as passes of their own.
    weight = parts.layer.weight * layers[0] * (case.plan.schedule.startswith(("zb", "v-")))
    times = zip(forward, backward - weight, weight, strict=True)
    return [Stage(float(go), float(back), float(late)) for go, back, late in times], float(parts.hop.max())


def _timeline(case: TrainingCase, stages: list[Stage], hop_s: float) -> Timeline:
    plan = case.plan
    p, m = plan.pp, plan.micro_batches
    if plan.schedule in FOLDED:
        return simulate(folded_order(plan.schedule, p, m), stages, hop_s, 2, folded=True)
    if plan.schedule in ("zb-1p", "zb-2p"):
        return zero_bubble(stages, m, hop_s, p if plan.schedule == "zb-1p" else 2 * p)
    orders: list[list[Pass]]
    if plan.schedule in ("zb-h1", "zb-h2"):
        ahead = 1 if plan.schedule == "zb-h1" else 2
        orders = delayed_order(p, m, p if ahead == 1 else 2 * p - 1, float(ahead))
    else:
        orders = fixed_order(plan.schedule, p, m, plan.vpp)
    return simulate(orders, stages, hop_s, plan.vpp)
