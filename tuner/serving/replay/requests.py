"""Requests of a replay as arrays, and the generators of arrivals and lengths. Seeded: the same seed, the same requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from controlplane.model.errors import InvalidSpec

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MOST_REQUESTS = 5_000_000
MOST_TOKENS = 10_000_000  # of one request: above any context length sold
MOST_OUTPUT = 1 << 39  # tokens of all answers: the compiled loop counts them in 40 bits


def _no_ints() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Requests:
    """One row per request, in the order they are issued.

    Open loop: `arrival_s` is sorted. Closed loop: `clients` clients send the next request when one is answered, and
    `arrival_s` is not read. `priority`: 0 is the most important. `group`: requests that share a prompt head (for
    routing), -1: none. `tenant` is an index into `tenants`.

    The prefix cache works on segments: pieces of prompt, each named by a number that stands for the whole text up to
    its end. Request i's prompt begins with the segments `segment_ids[segment_offsets[i]:segment_offsets[i + 1]]`;
    segment s ends at token `segment_ends[s]` and follows segment `segment_parents[s]` (-1: it begins the prompt).
    `own_segment[i]` is the segment that the finished sequence makes for the next turn of its session, -1: none.
    """

    arrival_s: Floats
    isl: Ints
    osl: Ints
    clients: int | None = None
    priority: Ints | None = None
    group: Ints | None = None
    tenant: Ints | None = None
    tenants: tuple[str, ...] = ()
    segment_offsets: Ints | None = None
    segment_ids: Ints = field(default_factory=_no_ints)
    segment_ends: Ints = field(default_factory=_no_ints)
    segment_parents: Ints = field(default_factory=_no_ints)
    own_segment: Ints | None = None

    def __post_init__(self) -> None:
        n = self.isl.size
        if n == 0:
            raise InvalidSpec("no requests", field="requests", value=0, limit=f"1 to {MOST_REQUESTS}")
        if n > MOST_REQUESTS:
            raise InvalidSpec("too many requests", field="requests", value=n, limit=f"1 to {MOST_REQUESTS}")
        for name in ("isl", "osl"):
            values = getattr(self, name)
            if values.size != n or values.min() < 1 or values.max() > MOST_TOKENS:
                raise InvalidSpec("lengths out of range", field=name, limit=f"1 to {MOST_TOKENS} tokens each")
        if int(self.osl.sum()) > MOST_OUTPUT:
            raise InvalidSpec(
                "too many output tokens in all", field="requests", value=int(self.osl.sum()), limit=f"{MOST_OUTPUT}",
                hint="fewer requests or shorter answers",
            )  # fmt: skip
        if self.clients is None and (
            self.arrival_s.size != n
            or not np.isfinite(self.arrival_s).all()
            or bool((np.diff(self.arrival_s) < 0).any())
        ):
            raise InvalidSpec(
                "arrival times must be finite and sorted", field="arrival_s", hint="sort the rows by arrival"
            )
        if self.clients is not None and self.clients < 1:
            raise InvalidSpec("too few clients", field="closed", value=self.clients, limit="1 or more")
        for name in ("priority", "group", "tenant", "own_segment"):
            values = getattr(self, name)
            if values is not None and values.size != n:
                raise InvalidSpec("one value per request is needed", field=name, value=values.size, limit=str(n))

        self._check_segments()

    def _check_segments(self) -> None:
        """The compiled loop follows these numbers unchecked."""
        n, count = self.isl.size, self.segment_ends.size
        parents, ids, offsets = self.segment_parents, self.segment_ids, self.segment_offsets
        good = parents.size == count and bool(((parents >= -1) & (parents < np.arange(count))).all())
        good = good and bool((self.segment_ends >= np.where(parents >= 0, self.segment_ends[parents], 0)).all())
        good = good and bool(((ids >= 0) & (ids < count)).all())
        if self.own_segment is not None:
            good = good and bool(((self.own_segment >= -1) & (self.own_segment < count)).all())
        if offsets is not None:
            good = good and offsets.size == n + 1 and offsets[0] == 0 and offsets[-1] == ids.size
            good = good and bool((np.diff(offsets) >= 0).all())
        if not good:
            raise InvalidSpec(
                "segments do not fit together", field="segments",
                limit="parents before children, ends that grow, ids and offsets inside the arrays",
            )  # fmt: skip

    def __len__(self) -> int:
        return int(self.isl.size)


def uniform_lengths(tokens: int, range_ratio: float, count: int, rng: np.random.Generator) -> Ints:
    """Whole numbers uniform in [int(ratio x tokens), tokens], both ends included, at least 1: what the public serving
    benchmarks of vLLM and InferenceX draw with `random-range-ratio`."""
    low = max(1, int(range_ratio * tokens))
    return rng.integers(low, tokens + 1, count, dtype=np.int64)


def closed_loop(
    clients: int,
    count: int,
    *,
    isl: int,
    osl: int,
    isl_range: float = 1.0,
    osl_range: float = 1.0,
    shared_prefix: int = 0,
    seed: int = 0,
) -> Requests:
    """`count` requests from clients that always have one open."""
    rng = np.random.default_rng(seed)
    return _with_prefix(
        np.zeros(count), uniform_lengths(isl, isl_range, count, rng), uniform_lengths(osl, osl_range, count, rng),
        clients, shared_prefix,
    )  # fmt: skip


def open_loop(
    arrival_s: Floats,
    *,
    isl: int,
    osl: int,
    isl_range: float = 1.0,
    osl_range: float = 1.0,
    shared_prefix: int = 0,
    seed: int = 0,
) -> Requests:
    """Requests at given times (`poisson_times`, `gamma_times`, `burst_times`) with drawn lengths."""
    rng = np.random.default_rng([seed, 1])
    count = arrival_s.size
    return _with_prefix(
        np.ascontiguousarray(arrival_s, np.float64), uniform_lengths(isl, isl_range, count, rng),
        uniform_lengths(osl, osl_range, count, rng), None, shared_prefix,
    )  # fmt: skip


def poisson_times(rate_per_s: float, count: int, *, seed: int = 0) -> Floats:
    return gamma_times(rate_per_s, 1.0, count, seed=seed)


def gamma_times(rate_per_s: float, cv: float, count: int, *, seed: int = 0) -> Floats:
    """Gaps from a gamma distribution of this mean and coefficient of variation (1: Poisson)."""
    if not rate_per_s > 0 or not cv > 0:
        raise InvalidSpec("rate and cv must be above 0", field="arrivals", value=(rate_per_s, cv))
    rng = np.random.default_rng([seed, 2])
    shape = 1.0 / (cv * cv)
    return np.cumsum(rng.gamma(shape, 1.0 / (rate_per_s * shape), count))


def burst_times(rate_per_s: float, burst: int, count: int) -> Floats:
    """Groups of `burst` requests at once, evenly spaced so that the mean rate holds."""
    if not rate_per_s > 0 or burst < 1:
        raise InvalidSpec("rate must be above 0 and burst at least 1", field="arrivals", value=(rate_per_s, burst))
    return np.repeat(np.arange((count + burst - 1) // burst) * (burst / rate_per_s), burst)[:count].astype(np.float64)


def _with_prefix(arrival_s: Floats, isl: Ints, osl: Ints, clients: int | None, shared_prefix: int) -> Requests:
    """All prompts begin with the same `shared_prefix` tokens (or are wholly shared where they are shorter)."""
    if shared_prefix <= 0:
        return Requests(arrival_s=arrival_s, isl=isl, osl=osl, clients=clients)
    covers = isl >= shared_prefix
    offsets = np.concatenate(([0], np.cumsum(covers))).astype(np.int64)
    return Requests(
        arrival_s=arrival_s, isl=isl, osl=osl, clients=clients, group=np.where(covers, 0, -1).astype(np.int64),
        segment_offsets=offsets, segment_ids=np.zeros(int(covers.sum()), np.int64),
        segment_ends=np.array([shared_prefix], np.int64), segment_parents=np.array([-1], np.int64),
    )  # fmt: skip


def in_order(rows: Sequence[float] | Floats) -> NDArray[np.intp]:
    """Order of arrival; equal times keep the order of the file."""
    return np.argsort(np.asarray(rows, np.float64), kind="stable")
