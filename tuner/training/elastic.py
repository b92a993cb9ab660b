"""Going on without the failed node: what four published rules cost, in one currency.

Every price is an estimate of this module from the rule's idea, not a number of its paper: steps under 1F1B with equal
stages, one node per stage replica, lost nodes at the worst place. `share` puts them next to a restart on a spare.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

from controlplane.model.errors import InvalidSpec, Refused, UnknownName
from tuner.training.resilience import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticJob:
    """A job of dp x pp nodes, each one replica of one stage. Times are of one micro-batch on one stage; `weight_s` is
    the weight-gradient part that is not in `backward_s`."""

    dp: int
    pp: int
    micro_batches: int  # per replica
    forward_s: float
    backward_s: float
    weight_s: float
    state_bytes: float  # weights and optimizer of one node
    copy_bytes_per_s: float  # node to node
    detect_s: float  # until the others know
    least_nodes: int | None = None  # fewest that hold the model once; pp unless smaller pipelines are planned
    clock_boost: float = 1.0  # highest clock over the one in use (frequency scaling with head room)

    def __post_init__(self) -> None:
        for name in ("dp", "pp", "micro_batches"):
            if getattr(self, name) < 1:
                raise InvalidSpec("below 1", field=name, value=getattr(self, name), limit="1 or more")
        if self.least_nodes is not None and not 1 <= self.least_nodes <= self.nodes:
            raise InvalidSpec("out of range", field="least_nodes", value=self.least_nodes, limit=f"1 to {self.nodes}")
        for item in fields(self)[3:9]:
            value = getattr(self, item.name)
            positive = item.name in ("forward_s", "backward_s", "copy_bytes_per_s")
            if not math.isfinite(value) or value < 0.0 or (positive and value == 0.0):
                limit = "a finite number above 0" if positive else "a finite number, 0 or more"
                raise InvalidSpec("not a time or size", field=item.name, value=value, limit=limit)
        if not 1.0 <= self.clock_boost <= 2.0:
            raise InvalidSpec("out of range", field="clock_boost", value=self.clock_boost, limit="1 to 2")

    @property
    def nodes(self) -> int:
        return self.dp * self.pp

    @property
    def stage_s(self) -> float:
        return self.forward_s + self.backward_s + self.weight_s

    @property
    def iteration_s(self) -> float:
        return (self.micro_batches + self.pp - 1) * self.stage_s

    @property
    def idle(self) -> float:
        """Share of the iteration that a stage waits."""
        return (self.pp - 1) / (self.micro_batches + self.pp - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticPrice:
    """What a rule costs with some nodes lost, over the same job with all nodes and no rule."""

    rule: str
    healthy_slowdown: float  # iteration time while nothing is lost
    slowdown: float  # with the nodes lost
    recovery_s: float  # training stands still, per failure
    tolerates: int  # lost nodes it survives wherever they are
    state_factor: float  # memory for weights and optimizer
    source: str
    estimate: bool = True


def bamboo(job: ElasticJob, lost: int = 1) -> ElasticPrice:
    """Every node also holds its successor's stage and computes its forward in the bubble; what does not fit there
    lengthens the iteration. After a loss the neighbour runs both stages: twice the slowest stage. Two neighbours lost
    together end it, so it surely survives one."""
    _check_lost(job, lost)
    bubble = (job.pp - 1) * job.stage_s
    healthy = job.iteration_s + max(0.0, job.micro_batches * job.forward_s - bubble)
    both = job.pp * job.stage_s + (job.micro_batches - 1) * 2.0 * job.stage_s
    return ElasticPrice(
        rule="bamboo",
        healthy_slowdown=healthy / job.iteration_s,
        slowdown=max(healthy, both if lost else 0.0) / job.iteration_s,
        recovery_s=job.detect_s + min(job.micro_batches, job.pp) * job.stage_s,  # micro-batches in flight, again
        tolerates=1 if job.pp > 1 else 0,
        state_factor=2.0,
        source="Bamboo, NSDI'23 (arXiv 2204.12013)",
    )


def oobleck(job: ElasticJob, lost: int = 1) -> ElasticPrice:
    """Pipelines of other lengths were planned before; the nodes left form some of them and share the batch by speed.
    Layers without a holder are copied from a replica, the iteration under way is repeated. f losses need f + 1
    replicas, so it survives as many as whole models fit beside the first."""
    _check_lost(job, lost)
    least = job.pp if job.least_nodes is None else job.least_nodes
    return ElasticPrice(
        rule="oobleck",
        healthy_slowdown=1.0,
        slowdown=job.nodes / (job.nodes - lost),
        recovery_s=job.detect_s + job.state_bytes / job.copy_bytes_per_s + job.iteration_s / 2.0,
        tolerates=job.nodes // least - 1,
        state_factor=1.0,
        source="Oobleck, SOSP'23 (arXiv 2309.08125)",
    )


def recycle(job: ElasticJob, lost: int = 1) -> ElasticPrice:
    """Micro-batches of the lost node go to the same stage of other replicas, into their bubbles: with backward split
    in two and the optimizer staggered, max(1, d / (d - k) x (1 - idle share)). All losses in one stage here, the worst
    place. Needs whole stages on every replica: not with fully sharded states."""
    _check_lost(job, lost)
    left = job.dp - lost
    slowdown = max(1.0, job.dp / left * (1.0 - job.idle)) if left > 0 else math.inf
    return ElasticPrice(
        rule="recycle",
        healthy_slowdown=1.0,
        slowdown=slowdown,
        recovery_s=job.detect_s + job.iteration_s / 2.0,
        tolerates=job.dp - 1,
        state_factor=1.0,
        source="ReCycle, SOSP'24 (arXiv 2405.14009)",
    )


def elaswave(job: ElasticJob, lost: int = 1) -> ElasticPrice:
    """Micro-batches and layers move until all nodes left share the work evenly, and clocks rise where there is head
    room; groups are edited in place (under a second by the paper) and missing states copied."""
    _check_lost(job, lost)
    return ElasticPrice(
        rule="elaswave",
        healthy_slowdown=1.0,
        slowdown=max(1.0, job.nodes / (job.nodes - lost) / job.clock_boost),
        recovery_s=job.detect_s + 1.0 + job.state_bytes / job.copy_bytes_per_s,
        tolerates=job.dp - 1,
        state_factor=1.0,
        source="ElasWave (arXiv 2510.00606)",
    )


RULES: dict[str, Callable[..., ElasticPrice]] = {
    "bamboo": bamboo,
    "oobleck": oobleck,
    "recycle": recycle,
    "elaswave": elaswave,
}


def share(rule: str, job: ElasticJob, run: Run, repair_s: float) -> float:
    """Share of the healthy, rule-less rate that the rule keeps: lost nodes in repair are Poisson distributed, each
    number runs at its slowdown, more than the rule survives counts as standing still, and every failure costs its
    recovery. Raises UnknownName, and InvalidSpec where run and job differ in nodes."""
    price = RULES.get(rule)
    if price is None:
        raise UnknownName("no such rule", field="rule", value=rule, limit=", ".join(RULES))
    if run.nodes != job.nodes:
        raise InvalidSpec("not the job's nodes", field="run.nodes", value=run.nodes, limit=str(job.nodes))
    if not (math.isfinite(repair_s) and repair_s >= 0.0):
        raise InvalidSpec("not a time", field="repair_s", value=repair_s, limit="0 or more")
    away = repair_s / run.mtbf_s
    probability, rate = math.exp(-away), 0.0
    base = price(job, 0)
    for lost in range(min(base.tolerates, job.nodes - 1) + 1):
        rate += probability / (price(job, lost).slowdown if lost else base.healthy_slowdown)
        probability *= away / (lost + 1)
    return max(0.0, rate * (1.0 - base.recovery_s / run.mtbf_s))


def _check_lost(job: ElasticJob, lost: int) -> None:
    if lost < 0:
        raise InvalidSpec("below 0", field="lost", value=lost, limit="0 or more")
    if lost >= job.nodes:
        raise Refused("no node is left", field="lost", value=lost, limit=f"at most {job.nodes - 1}")
