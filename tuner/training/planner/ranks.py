"""Which rank sits where, as runs of equal nodes, and what each pipeline stage is made of."""

from __future__ import annotations

from controlplane.model.launch import LaunchStage, RankRun
from controlplane.model.training import ParallelPlan, TrainingCase
from tuner.training.evaluate import layer_counts
from tuner.training.placement import NodeGroup, rank_map
from tuner.training.seats import stage_pools


def rank_runs(case: TrainingCase, plan: ParallelPlan) -> tuple[RankRun, ...]:
    """Ranks in Megatron-LM's order: tensor parallel fastest, then context, data and pipeline parallel. In one pool they
    fill the nodes in turn; in several each stage takes whole tensor parallel groups of its own pool."""
    names = pool_names(case)
    if len(case.pools) == 1:
        pool = case.pools[0]
        return (
            RankRun(
                pool=names[0],
                first_rank=0,
                ranks=plan.ranks,
                first_node=0,
                per_node=min(pool.gpus_per_node, plan.ranks),
            ),
        )
    groups = [
        NodeGroup(name=name, nodes=-(-pool.gpus // pool.gpus_per_node), gpus_per_node=pool.gpus_per_node, nic=pool.nic)
        for name, pool in zip(names, case.pools, strict=True)
    ]
    places = [[index] for index in stage_pools(case)]
    seats = rank_map(groups, places, tp=plan.tp, dp=plan.dp, cp=plan.cp)
    runs: list[RankRun] = []
    for group, node, first, ranks in seats.nodes_in_rank_order():
        start = int(seats.gpu[first])
        last = runs[-1] if runs else None
        if last is not None and (last.pool, last.per_node, last.first_accelerator) == (names[group], ranks, start):
            nodes, rest = divmod(last.ranks, last.per_node)
            if not rest and node == last.first_node + nodes:
                runs[-1] = last.model_copy(update={"ranks": last.ranks + ranks})
                continue
        runs.append(
            RankRun(
                pool=names[group],
                first_rank=first,
                ranks=ranks,
                first_node=node,
                per_node=ranks,
                first_accelerator=start,
            )
        )
    return tuple(runs)


def launch_stages(case: TrainingCase, plan: ParallelPlan) -> tuple[LaunchStage, ...]:
    """The pipeline's stages: layers, pool, accelerator, ranks."""
    names, each = pool_names(case), plan.ranks // plan.pp
    return tuple(
        LaunchStage(
            layers=count, pool=names[place], accelerator=case.pools[place].gpu, first_rank=at * each, ranks=each
        )
        for at, (count, place) in enumerate(zip(layer_counts(case), stage_pools(case), strict=True))
    )


def pool_names(case: TrainingCase) -> list[str]:
    """What the pools are called: as the user said, else by their accelerator, numbered where that is not enough."""
    names = [pool.name or pool.gpu for pool in case.pools]
    return [name if names.count(name) == 1 else f"{name}-{index}" for index, name in enumerate(names)]
