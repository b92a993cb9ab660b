"""The leaves of cells: recomputation, sharding, offload and what else is chosen once degrees and schedule stand.

Where layers are recomputed or offloaded in part, one row stands for all numbers of them (`FEWEST`): more of them is
slower and takes less memory, so the fewest that fit are the fastest that fit, and `settled` finds them.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np

from tuner.training.columns import CONTEXT_CODE, OFFLOAD_CODE, RECOMPUTE_CODE, SCHEDULE_CODE, VOCABULARY_CODE
from tuner.training.planner.question import PlanQuestion
from tuner.training.planner.rows import (
    AGAIN,
    AWAY,
    CELL_WIDTH,
    CP,
    DP,
    FEWEST,
    GROUP_CODE,
    GROUPS,
    MODE,
    OFFLOAD,
    OVERLAP,
    PP,
    RECOMPUTE,
    SCHEDULE,
    SP,
    TP,
    VOCAB,
    WIDTH,
    ZERO,
    Table,
    layers_per_chunk,
    node_ranks,
)

_FULL, _SPLIT = int(RECOMPUTE_CODE["full"]), int(SCHEDULE_CODE["zb-h1"])
_DOMINATED = ("nvme", "vocab-1", "interlaced")  # never faster, never smaller here than cpu and vocab-2: only if fixed
_Flags = tuple[int, ...]


def leaves(question: PlanQuestion, table: Table) -> Table:
    """The leaves of some cells, all columns."""
    offload = tuple(question.rules.optimizer_offload.items())
    flags = np.array(_flags(_key(question), offload), dtype=np.int64).reshape(-1, WIDTH - CELL_WIDTH)
    rows = np.hstack([np.repeat(table, len(flags), axis=0), np.tile(flags, (len(table), 1))])
    rows = rows[_allowed(question, rows)]
    can = rows[:, DP] * rows[:, CP] > 1
    if not question.rules.overlap_beside_zero_bubble:
        can &= rows[:, SCHEDULE] < _SPLIT
    rows[:, OVERLAP] &= can
    return rows


def _key(question: PlanQuestion) -> tuple[tuple[Any, ...], ...]:
    rules, free = question.rules, question.free
    attention, asked = question.case.plan.attention, question.fixed

    def chosen(name: str, known: tuple[str, ...], codes: dict[str, Any]) -> tuple[int, ...]:
        named = asked.get(name, ())
        return tuple(
            int(codes[word]) for word in known if free(name, word) and (word not in _DOMINATED or word in named)
        )

    modes: list[tuple[int, int]] = []
    for word in rules.recompute[attention]:
        if free("recompute", word):
            part = word == "full" and rules.partial_recompute
            # Who asks for full recomputation alone means all layers.
            counts: tuple[int, ...] = (0, FEWEST) if part and free("recompute", "none") else (0,)
            if "recompute_layers" in asked:
                counts = tuple(int(n) for n in asked["recompute_layers"] if part or n == 0)
            modes += [(int(RECOMPUTE_CODE[word]), count) for count in counts]
    away: tuple[int, ...] = (0,) if rules.offload_layers == "never" else (0, FEWEST)
    if "offload_layers" in asked:
        away = tuple(int(n) for n in asked["offload_layers"] if n == 0 or rules.offload_layers != "never")
    levels = sorted({*rules.zero, *rules.zero_without_pipeline})
    places = ("none", *rules.optimizer_offload)
    return (
        tuple(modes),
        tuple(level for level in levels if free("zero", level)),
        chosen("sharding_groups", rules.sharding_groups, GROUP_CODE),
        tuple(split for split in (0, 1) if free("sp", bool(split)) and (rules.sp or not split)),
        tuple(sorted({*chosen("cp_mode", rules.cp_modes, CONTEXT_CODE), *([0] if free("cp_mode", "ring") else [])})),
        chosen("optimizer_offload", places, OFFLOAD_CODE),
        away,
        chosen("vocab_parallel", rules.vocab_parallel, VOCABULARY_CODE),
        # Hidden traffic never costs more than open traffic in this model: both only where that is asked for.
        tuple(int(value) for value in sorted(asked.get("overlap_dp", (True,)))),
    )


@lru_cache(maxsize=64)
def _flags(key: tuple[tuple[Any, ...], ...], offload: tuple[tuple[str, tuple[int, ...]], ...]) -> tuple[_Flags, ...]:
    """Combinations that no cell rules in: offload without the optimizer's shards, groups of what is not sharded."""
    levels = {int(OFFLOAD_CODE[place]): zeros for place, zeros in offload}
    found = []
    for (mode, again), zero, groups, sp, context, place, away, vocabulary, overlap in product(*key):
        if (groups and zero != 3) or (place and zero not in levels[place]) or (away and mode):
            continue
        found.append((mode, again, zero, groups, sp, context, place, away, vocabulary, overlap))
    return tuple(found)


def _allowed(question: PlanQuestion, rows: Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    case, rules = question.case, question.rules
    tp, pp, cp, zero = (rows[:, at] for at in (TP, PP, CP, ZERO))
    ranks, node = rows[:, DP] * cp, node_ranks(question, tp)
    keep = (rows[:, SP] == 0) | ((tp > 1) & (case.model.seq // cp % tp == 0))
    if case.model.experts or case.plan.overlap_tp:
        keep &= (tp == 1) | (rows[:, SP] == 1)
    # The offloaded optimizer is the distributed one, which a single rank may have, too.
    keep &= (zero == 0) | (ranks > 1) | ((rows[:, OFFLOAD] > 0) & (zero == 1))
    keep &= np.isin(zero, rules.zero) | (pp == 1)
    keep &= np.isin(zero, rules.zero_beside_cp) | (cp == 1)
    inside = (node > 1) & (node < ranks) & (ranks % node == 0)
    keep &= (rows[:, GROUPS] == 0) | (inside & ((rows[:, GROUPS] == 1) | ((node % 2 == 0) & (node > 2))))
    heads = case.model.heads // tp
    ulysses = rows[:, MODE] == CONTEXT_CODE["ulysses"]
    keep &= np.where(ulysses, (cp > 1) & (heads % cp == 0), (cp == 1) | ("ring" in rules.cp_modes))
    away = rows[:, AWAY] != 0
    keep &= ~away | (pp == 1) | (rules.offload_layers == "always")
    most = -(-case.model.layers // pp)
    keep &= (rows[:, AWAY] < most) & (~away | (most > 1))
    chunk = layers_per_chunk(question, rows)
    keep &= (rows[:, AGAIN] < chunk) & ((rows[:, AGAIN] == 0) | (chunk > 1))
    keep &= (rows[:, VOCAB] == 0) | (pp > 1)
    keep &= (rows[:, SCHEDULE] < _SPLIT) | (rows[:, RECOMPUTE] != _FULL)
    return np.asarray(keep, dtype=np.bool_)
