"""Which kind of run a case is: intervals and error reports go by these, because errors do."""

from __future__ import annotations

from controlplane.catalog import load
from controlplane.model.training import TrainingCase

FITTED = ("ampere", "hopper")  # architectures whose constants rest on measurements


def pattern(case: TrainingCase) -> str:
    """The first that applies, rarest first."""
    plan, per_node = case.plan, min(pool.gpus_per_node for pool in case.pools)
    if len({case.pools[index].gpu for index in case.stage_pools} or {pool.gpu for pool in case.pools}) > 1:
        return "mixed-pools"
    if load().accelerators[case.pools[0].gpu].architecture.lower() not in FITTED:
        return "unfitted-accelerator"
    if case.plan.framework == "eager":
        return "eager"
    if case.model.experts:
        return "experts"
    if plan.zero == 3:
        return "fsdp"
    if plan.tp > per_node:
        return "tp-across-nodes"
    if plan.pp > 1 and plan.ranks > per_node:
        return "pipeline"
    return "one-node" if plan.ranks <= per_node else "data-parallel"
