"""Orders of pools that are tried first, and alone where there are too many pools for all orders."""

from __future__ import annotations

from tuner.training.columns import columns
from tuner.training.constants import Constants
from tuner.training.hardware import hardware
from tuner.training.networks import nic_class
from tuner.training.placement import Links, best_path, hop_matrix
from tuner.training.planner.mixed.lines import Pools
from tuner.training.planner.mixed.sequences import Orders
from tuner.training.planner.question import PlanQuestion

_TRANSFER_BYTES = 32e6  # of a boundary tensor: 4096 wide, 4096 tokens; only the order of links counts


def pool_orders(question: PlanQuestion, pools: Pools, constants: Constants) -> Orders:
    """Pools with the most memory for what they compute first, because early stages hold the most micro-batches; and
    the path whose transfers between neighbouring pools cost least in all, forwards and backwards."""
    each = question.case.pools
    c = columns([(question.case, index) for index in range(len(each))], tuple(constants.accelerators))
    h = hardware(c, constants)
    links = [
        Links(
            nic=nic_class(pool), bytes_per_s=float(h.node[index]), latency_s=0.0,
            cross_bytes_per_s=float(pools.across[index]), cross_latency_s=0.0,
        )
        for index, pool in enumerate(each)
    ]  # fmt: skip
    path = best_path(hop_matrix(links, _TRANSFER_BYTES))
    roomy = tuple(sorted(path, key=lambda pool: -float(pools.limits[pool] / h.gemm[pool])))
    return tuple(dict.fromkeys((roomy, path, path[::-1])))
