"""What the emitters share: refusing what a framework has no word for, and the launcher of PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.model.errors import Unsupported
from controlplane.model.launch import RankRun
from controlplane.model.training import ParallelPlan, TrainingCase
from tuner.training.planner.ranks import rank_runs


def refuse_unless(name: str, value: object, known: Sequence[object], why: str) -> None:
    """Raises Unsupported naming the field unless the value is one that the framework has."""
    if value not in known:
        raise Unsupported(
            "cannot be said to this framework", field=name, value=value,
            limit=", ".join(str(item).lower() for item in known), hint=why,
        )  # fmt: skip


def gradient_format(plan: ParallelPlan) -> list[str]:
    """What Megatron-LM and its forks are told of the format that gradients are summed in: beside bf16 it is single
    precision of itself, beside fp16 half."""
    return ["--accumulate-allreduce-grads-in-fp32"] * (plan.precision == "fp16" and plan.gradient_bytes == 4)


def nodes_of(case: TrainingCase, plan: ParallelPlan) -> tuple[int, int | None]:
    """Nodes that are started, and ranks on each of them; None where they differ."""
    runs = rank_runs(case, plan)
    each = {run.per_node for run in runs}
    nodes = {(run.pool, run.first_node + at) for run in runs for at in range(_span(run))}
    several = len(each) > 1 or any(run.ranks % run.per_node and _span(run) > 1 for run in runs)
    return len(nodes), None if several else each.pop()


def torchrun(case: TrainingCase, plan: ParallelPlan) -> tuple[str, ...]:
    """PyTorch's launcher, one command per node in the order of the rank map; words in capitals are the user's."""
    nodes, per_node = nodes_of(case, plan)
    found = ("torchrun", f"--nnodes {nodes}", f"--nproc_per_node {per_node or 'RANKS_OF_THE_NODE'}")
    return (*found, *(["--node_rank NODE_RANK", "--master_addr FIRST_NODE", "--master_port 29500"] * (nodes > 1)))


def seats(case: TrainingCase, plan: ParallelPlan) -> list[str]:
    """Which node of the launch is whose, where there are several pools: a note each."""
    if len(case.pools) == 1:
        return []
    order: list[tuple[str, int]] = []
    for run in rank_runs(case, plan):
        order += [(run.pool, run.first_node + at) for at in range(_span(run))]
    numbered = list(dict.fromkeys(order))
    found, start = [], 0
    for at in range(1, len(numbered) + 1):
        if at == len(numbered) or numbered[at][0] != numbered[start][0]:
            nodes = f"node {start}" if at - start == 1 else f"nodes {start} to {at - 1}"
            found.append(f"{nodes} of the launch: pool {numbered[start][0]}")
            start = at
    return found


def _span(run: RankRun) -> int:
    return -(-run.ranks // run.per_node)
