"""Failures of a long run: how much of its time trains, how often to write checkpoints, how many spare nodes to hold.

Failures come independently and at a constant rate per node. Times are seconds, rates per node and day as clusters
publish them. `elastic` prices rules that go on without the failed node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from controlplane.model.errors import InvalidSpec

_DAY_S = 86400.0
_MOST_NODES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRate:
    """Failures that stop a job, per node and day. `estimate`: taken from a secondary source or derived loosely."""

    per_node_day: float
    source: str
    estimate: bool


# What clusters published; nodes have 8 accelerators.
PUBLISHED_RATES = {
    "llama3": FailureRate(
        per_node_day=419 / (54 * 16384 / 8),
        source="Llama 3 (arXiv 2407.21783): 419 unexpected stops in 54 days on 16,384 H100",
        estimate=False,
    ),
    "rsc-1": FailureRate(per_node_day=6.5e-3, source="Kokolis et al. 2024 (arXiv 2410.21680), A100", estimate=True),
    "rsc-2": FailureRate(per_node_day=2.3e-3, source="Kokolis et al. 2024 (arXiv 2410.21680), A100", estimate=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A job and what stops it. `checkpoint_s` is the time training waits for one checkpoint (0 is not possible: an
    asynchronous one still copies), `restart_s` from the failure to the first new iteration, detection included."""

    nodes: int
    failures_per_node_day: float
    checkpoint_s: float
    restart_s: float

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= _MOST_NODES:
            raise InvalidSpec("out of range", field="nodes", value=self.nodes, limit=f"1 to {_MOST_NODES}")
        for name, open_low in (("failures_per_node_day", False), ("checkpoint_s", True), ("restart_s", False)):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0.0 or (open_low and value == 0.0):
                limit = "a finite number above 0" if open_low else "a finite number, 0 or more"
                raise InvalidSpec("not a rate or time", field=name, value=value, limit=limit)

    @property
    def mtbf_s(self) -> float:
        """Mean time between failures of the whole job; infinite without failures."""
        rate = self.nodes * self.failures_per_node_day
        return _DAY_S / rate if rate > 0.0 else math.inf


def daly_interval_s(run: Run) -> float:
    """Higher-order best training time between checkpoints (Daly 2006, eq. 37): M itself where C >= 2 M."""
    mtbf, cost = run.mtbf_s, run.checkpoint_s
    if math.isinf(mtbf):
        return math.inf
    if cost >= 2.0 * mtbf:
        return mtbf
    half = cost / (2.0 * mtbf)
    return math.sqrt(2.0 * cost * mtbf) * (1.0 + math.sqrt(half) / 3.0 + half / 9.0) - cost


def best_interval_s(run: Run) -> float:
    """Training time between checkpoints that makes `ettr` largest: exp((D + C)/M) (1 - D/M) = 1, solved by Newton."""
    mtbf = run.mtbf_s
    if math.isinf(mtbf):
        return math.inf
    target = -run.checkpoint_s / mtbf
    share = min(daly_interval_s(run) / mtbf, 0.999)  # D / M, in (0, 1)
    for _ in range(100):
        # g(x) = x + log(1 - x) falls from 0; the root of g(x) = -C/M.
        step = (share + math.log1p(-share) - target) * (1.0 - share) / share
        share = min(max(share + step, share / 2.0), (1.0 + share) / 2.0)
        if abs(step) <= 1e-14 * share:
            break
    return share * mtbf


def ettr(run: Run, interval_s: float) -> float:
    """Share of wall-clock time that trains and is not lost: D / (M exp(R/M) (exp((D + C)/M) - 1)).

    Exact for exponential failures that may also strike during checkpoint and restart (Daly 2006, eq. 20). 1 - C/D
    approximately without failures; 0 where the job gets nowhere.
    """
    interval = _interval(interval_s)
    mtbf = run.mtbf_s
    if math.isinf(interval):
        return 1.0 if math.isinf(mtbf) else 0.0
    if math.isinf(mtbf):
        return interval / (interval + run.checkpoint_s)
    exponent = (interval + run.checkpoint_s) / mtbf
    if exponent > 700.0 or run.restart_s / mtbf > 700.0:
        return 0.0
    return interval / (mtbf * math.exp(run.restart_s / mtbf) * math.expm1(exponent))


def goodput_tokens_per_s(tokens_per_iteration: float, iteration_s: float, ratio: float) -> float:
    """Tokens that stay trained per second of wall-clock time; `ratio` is an ETTR."""
    if not (iteration_s > 0.0 and math.isfinite(iteration_s)):
        raise InvalidSpec("not a time", field="iteration_s", value=iteration_s, limit="above 0")
    if not (tokens_per_iteration > 0.0 and math.isfinite(tokens_per_iteration)):
        raise InvalidSpec(
            "not a number of tokens", field="tokens_per_iteration", value=tokens_per_iteration, limit="above 0"
        )
    if not 0.0 <= ratio <= 1.0:
        raise InvalidSpec("not a share", field="ratio", value=ratio, limit="0 to 1")
    return tokens_per_iteration / iteration_s * ratio


def spare_nodes(nodes: int, failures_per_node_day: float, repair_s: float, *, confidence: float = 0.99) -> int:
    """Spare nodes so that with this probability no more are in repair: the binomial quantile over nodes and spares
    together, each away for `repair_s` after a failure; spares fail as often as nodes at work."""
    if not 0.0 < confidence < 1.0:
        raise InvalidSpec("not a probability", field="confidence", value=confidence, limit="between 0 and 1")
    run = Run(nodes=nodes, failures_per_node_day=failures_per_node_day, checkpoint_s=1.0, restart_s=0.0)
    if not (math.isfinite(repair_s) and repair_s >= 0.0):
        raise InvalidSpec("not a time", field="repair_s", value=repair_s, limit="0 or more")
    load = run.failures_per_node_day / _DAY_S * repair_s  # repair time over time between failures
    away = load / (1.0 + load)
    if away > 0.5:
        raise InvalidSpec(
            "a node would be in repair more than half of its time", field="repair_s", value=repair_s,
            limit=f"{_DAY_S / failures_per_node_day:g}",
        )  # fmt: skip
    low, high = -1, 1
    while _binomial_at_most(high, nodes + high, away) < confidence:
        low, high = high, 2 * high
    while high - low > 1:  # more spares never make it less likely
        middle = (low + high) // 2
        if _binomial_at_most(middle, nodes + middle, away) < confidence:
            low = middle
        else:
            high = middle
    return high


def _binomial_at_most(most: int, count: int, share: float) -> float:
    """P(Binomial(count, share) <= most)."""
    if share == 0.0:
        return 1.0
    log, log_not, whole = math.log(share), math.log1p(-share), math.lgamma(count + 1)
    return math.fsum(
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(count - k + 1) + k * log + (count - k) * log_not)
        for k in range(min(most, count) + 1)
    )


def _interval(interval_s: float) -> float:
    if math.isnan(interval_s) or interval_s <= 0.0:
        raise InvalidSpec("not a time", field="interval_s", value=interval_s, limit="above 0")
    return interval_s
