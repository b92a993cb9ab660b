"""Which pools the stages of a case stand on, and which of them sets a stage's pace."""

from __future__ import annotations

from collections import Counter

from controlplane.model.training import TrainingCase
from tuner.training.columns import columns
from tuner.training.constants import shipped
from tuner.training.iteration import stage_parts


def stage_pools(case: TrainingCase) -> tuple[int, ...]:
    """The pool whose accelerators each stage is counted on: as the case says, else where it stands, and of several
    pools the one that a layer takes longest on (by the shipped constants)."""
    if case.stage_pools:
        return case.stage_pools
    stands = stands_on(case)
    shared = sorted({pool for pools in stands if len(pools) > 1 for pool in pools})
    if not shared:
        return tuple(pools[0] for pools in stands)
    layer = stage_parts(columns([(case, pool) for pool in shared], tuple(shipped().accelerators)), shipped()).layer
    seconds = dict(zip(shared, (layer.forward + layer.backward).tolist(), strict=True))
    return tuple(max(pools, key=lambda pool: seconds.get(pool, 0.0)) for pools in stands)


def stands_on(case: TrainingCase) -> tuple[tuple[int, ...], ...]:
    """The pools that each stage has accelerators of. Where the case does not say, pools in their order seat as many
    whole stages as they can, and the stages left share what is left over."""
    if case.stage_pools:
        return tuple((pool,) for pool in case.stage_pools)
    stages, ranks = case.plan.pp, case.plan.ranks // case.plan.pp
    if len(case.pools) == 1:
        return ((0,),) * stages
    whole = [index for index, pool in enumerate(case.pools) for _ in range(min(pool.gpus // ranks, stages))]
    found: list[tuple[int, ...]] = [(index,) for index in whole[:stages]]
    rest = [(index, pool.gpus % ranks) for index, pool in enumerate(case.pools) if pool.gpus % ranks]
    while len(found) < stages:
        pools, missing = list[int](), ranks
        while missing:
            index, free = rest.pop(0)
            taken = min(free, missing)
            pools.append(index)
            missing -= taken
            if free > taken:
                rest.insert(0, (index, free - taken))
        found.append(tuple(pools))
    return tuple(found)


def seat_warnings(case: TrainingCase) -> list[str]:
    """What the counting of stages on one pool each leaves out."""
    if len(case.pools) == 1:
        return []
    if case.stage_pools:
        each, counts = case.plan.ranks // case.plan.pp, Counter(case.stage_pools)
        idle = [
            f"{pool.gpus - each * counts[index]} of the {pool.gpus} accelerators of pool {pool.name or index} stay idle"
            for index, pool in enumerate(case.pools) if each * counts[index] < pool.gpus
        ]  # fmt: skip
        return idle + [
            f"stages on pool {index} take {each * count} accelerators of the {case.pools[index].gpus} it has: all count "
            "at its pace, with its memory and NICs"
            for index, count in sorted(counts.items()) if each * count > case.pools[index].gpus
        ]  # fmt: skip
    split = [(stage, pools) for stage, pools in enumerate(stands_on(case)) if len(pools) > 1]
    if not split:
        return []
    paces = stage_pools(case)
    said = ", ".join(
        f"{stage} (pools {', '.join(map(str, pools))}; counted on {paces[stage]})" for stage, pools in split[:4]
    )
    more = f" and {len(split) - 4} more" if len(split) > 4 else ""
    return [
        f"no single pool seats stage {said}{more}: the slowest pool sets the pace, the network between the pools is not "
        "counted inside a stage"
    ]
