"""Which NICs talk to each other, and what is left for nodes whose NICs do not."""

from __future__ import annotations

from controlplane.catalog import load
from controlplane.model.training import TrainingPool
from tuner.training.constants import Constants
from tuner.training.transport import achieved_bytes_per_s

ACROSS_NIC = "eth-25"  # what nodes of unlike NICs are taken to share where nothing else is said


def nic_class(pool: TrainingPool) -> str:
    """Pools of one class reach each other over their NICs, at the slower side's rate: InfiniBand of any generation,
    RoCE, and so on. Pools that give a rate and no NIC are one class."""
    return "unknown" if pool.nic is None else load().nics[pool.nic].protocol


def across_bytes_per_s(pool: TrainingPool, constants: Constants) -> float:
    """What a node of this pool gets towards nodes of another NIC class."""
    if pool.cross_gb_s is not None:
        rate = pool.cross_gb_s * 1e9
    else:
        line = load().nics[ACROSS_NIC].line_rate_bytes_per_s
        assert line is not None
        rate = line
    return float(achieved_bytes_per_s(rate, constants.links["tcp"], True))


def assumes_ethernet(pools: tuple[TrainingPool, ...]) -> bool:
    """Whether pools of several NIC classes do not say how they reach each other."""
    return len({nic_class(pool) for pool in pools}) > 1 and any(pool.cross_gb_s is None for pool in pools)
