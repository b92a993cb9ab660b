"""Placement on a large fleet: 10,000 nodes, 5 pools, 80,000 GPUs.

`gangs_per_s`: gangs of mixed size placed and accounted one after another while the fleet stays about 70 % full (old
gangs leave as new ones come), refusals included. `gang512_ms`: one gang of 64 pods of 8 GPUs inside one block, on
nodes with a NIC class and eight rails, in the fleet that is left then; pools that refuse are named on stderr.
"""

from __future__ import annotations

import random
import sys
import time
from collections import deque

from controlplane.model.cluster import NodeFacts
from operators.placement import Fleet, GangRequest, Placement, PoolSupply, Refusal, TopologyNeed
from tests.perf.report import Emit, from_samples

POOLS = (
    ("h100-a", "h100-sxm-80gb"),
    ("h100-b", "h100-sxm-80gb"),
    ("h200", "h200-sxm-141gb"),
    ("a100", "a100-sxm-80gb"),
    ("mi300x", "mi300x-192gb"),
)
NODES_PER_POOL = 2_000
GPUS_PER_NODE = 8
NODES_PER_RACK = 8
RACKS_PER_BLOCK = 32
FULL = 0.7
ROUNDS = 5
GANGS_PER_ROUND = 1_000
# (pods, GPUs per pod): one to eight GPUs mostly, whole nodes often, some gangs of several nodes
SIZES = ((1, 1), (1, 1), (1, 2), (1, 4), (1, 4), (1, 8), (1, 8), (1, 8), (2, 4), (2, 8), (4, 8), (8, 8), (16, 8))


class Cluster:
    """A fleet and what runs on it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.fleet = Fleet()
        self.used: dict[str, int] = {}
        self.running: deque[dict[str, int]] = deque()
        self.units = 0
        for pool, accelerator in POOLS:
            self.fleet.set_pool(PoolSupply(pool, accelerator, spare_nodes=8))
            for number in range(NODES_PER_POOL):
                rack = number // NODES_PER_RACK
                block = f"{pool}-b{rack // RACKS_PER_BLOCK}"
                domains = {"zone": "z1", "block": block, "rack": f"{block}/r{rack}"}
                nic = "ib-ndr-400" if number % 10 else "ib-hdr-200"
                name = f"{pool}-n{number:05d}"
                facts = NodeFacts(name, accelerator, "nvidia.com/gpu", GPUS_PER_NODE, nic, 8, domains)
                self.fleet.set_node(pool, facts)

    def request(self) -> GangRequest:
        pods, units = self.random.choice(SIZES)
        need = None
        if pods > 1:
            need = TopologyNeed("rack", "preferred") if self.random.random() < 0.5 else TopologyNeed("block")
        return GangRequest(
            accelerator=self.random.choice(POOLS)[1],
            pods=pods,
            units_per_pod=units,
            nic_class="ib-ndr-400" if pods > 1 and self.random.random() < 0.5 else None,
            topology=need,
            spread="Spread" if self.random.random() < 0.5 else "Pack",
        )

    def step(self) -> None:
        """One gang comes; old ones leave while the fleet is fuller than it should be."""
        answer = self.fleet.place(self.request())
        if isinstance(answer, Placement):
            taken = answer.units_by_node
            self.running.append(taken)
            self._account(taken, 1)
        while self.units > FULL * len(POOLS) * NODES_PER_POOL * GPUS_PER_NODE:
            self.running.rotate(-self.random.randrange(64))
            self._account(self.running.popleft(), -1)

    def fill(self) -> None:
        while self.units < FULL * len(POOLS) * NODES_PER_POOL * GPUS_PER_NODE * 0.99:
            self.step()

    def _account(self, taken: dict[str, int], sign: int) -> None:
        for node, units in taken.items():
            self.used[node] = self.used.get(node, 0) + sign * units
            self.units += sign * units
            self.fleet.set_used(node, self.used[node])


def run(emit: Emit) -> None:
    cluster = Cluster(seed=7)
    sys.stderr.write("filling 10,000 nodes to 70 %\n")
    cluster.fill()
    rates = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(GANGS_PER_ROUND):
            cluster.step()
        rates.append(GANGS_PER_ROUND / (time.perf_counter() - start))
    emit(from_samples("placement", "gangs_per_s", rates, "gangs/s", 200.0, "higher"))
    large = []
    for _ in range(ROUNDS):
        for pool, accelerator in POOLS:
            request = GangRequest(
                accelerator=accelerator,
                pods=64,
                units_per_pod=8,
                pools=(pool,),
                nic_class="ib-ndr-400",
                nic_min_per_node=8,
                topology=TopologyNeed("block"),
            )
            start = time.perf_counter()
            answer = cluster.fleet.place(request)
            took_ms = (time.perf_counter() - start) * 1000
            if isinstance(answer, Refusal):
                sys.stderr.write(f"512 GPUs in {pool}: {answer.reason}, {took_ms:.2f} ms\n")
            else:
                large.append(took_ms)
    emit(from_samples("placement", "gang512_ms", large, "ms", 50.0, "lower"))
