"""Which device class comes first: the cheapest path over classes.

A pipeline moves only activations between neighbours, so classes with unlike NICs belong behind one another and never
into one data-parallel group (Holmes, arXiv 2312.03549). The path of least cost is exact up to 12 classes (Held and
Karp 1962); beyond, nearest neighbours improved by 2-opt.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.model.errors import InvalidSpec

_EXACT_CLASSES = 12
_STARTS = 16  # of 2-opt


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """What a class sends over: inside itself, and to classes of another NIC class, which RDMA cannot cross."""

    nic: str | None
    bytes_per_s: float
    latency_s: float
    cross_bytes_per_s: float
    cross_latency_s: float


def hop_matrix(links: Sequence[Links], transfer_bytes: float) -> tuple[tuple[float, ...], ...]:
    """Seconds of one transfer between stages of each two classes: the slower side's rate, the longer latency."""
    for each in links:
        if min(each.bytes_per_s, each.cross_bytes_per_s) <= 0.0 or min(each.latency_s, each.cross_latency_s) < 0.0:
            raise InvalidSpec("not a link", field="links", value=each.nic, limit="rates above 0, latencies 0 or more")

    def seconds(left: Links, right: Links) -> float:
        if left.nic is not None and left.nic == right.nic:
            rate, latency = min(left.bytes_per_s, right.bytes_per_s), max(left.latency_s, right.latency_s)
        else:
            rate = min(left.cross_bytes_per_s, right.cross_bytes_per_s)
            latency = max(left.cross_latency_s, right.cross_latency_s)
        return latency + transfer_bytes / rate

    return tuple(
        tuple(
            left.latency_s + transfer_bytes / left.bytes_per_s if row == column else seconds(left, right)
            for column, right in enumerate(links)
        )
        for row, left in enumerate(links)
    )


def best_path(cost: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """The cheapest order that visits every class once. Ties go to the lower numbers."""
    count = len(cost)
    _check_hops(cost, count)
    if count <= 1:
        return tuple(range(count))
    return _held_karp(cost) if count <= _EXACT_CLASSES else _two_opt(cost)


def _check_hops(hop_s: Sequence[Sequence[float]], classes: int) -> None:
    """Raises InvalidSpec unless the matrix is classes x classes of times."""
    if len(hop_s) != classes or any(len(row) != classes for row in hop_s):
        raise InvalidSpec("wrong shape", field="hop_s", value=len(hop_s), limit=f"{classes} x {classes}")
    for row in hop_s:
        for value in row:
            if not math.isfinite(value) or value < 0.0:
                raise InvalidSpec("not a time", field="hop_s", value=value, limit="a finite number, 0 or more")


def _length(order: Sequence[int], cost: Sequence[Sequence[float]]) -> float:
    return math.fsum(cost[left][right] for left, right in itertools.pairwise(order))


def _held_karp(cost: Sequence[Sequence[float]]) -> tuple[int, ...]:
    count = len(cost)
    everyone = (1 << count) - 1
    # Least cost from a class through all others not yet visited; the path is read off forwards, lowest number first.
    onward = [[0.0] * count for _ in range(1 << count)]
    for visited in range(everyone - 1, 0, -1):
        left = [each for each in range(count) if not visited >> each & 1]
        for last in range(count):
            if visited >> last & 1:
                onward[visited][last] = min(cost[last][each] + onward[visited | 1 << each][each] for each in left)
    path = [min(range(count), key=lambda each: onward[1 << each][each])]
    visited = 1 << path[0]
    while visited != everyone:
        left = [each for each in range(count) if not visited >> each & 1]
        path.append(min(left, key=lambda each: cost[path[-1]][each] + onward[visited | 1 << each][each]))
        visited |= 1 << path[-1]
    return tuple(path)


def _two_opt(cost: Sequence[Sequence[float]]) -> tuple[int, ...]:
    count = len(cost)
    found: tuple[int, ...] | None = None
    for start in range(min(count, _STARTS)):
        path = [start]
        while len(path) < count:
            left = [each for each in range(count) if each not in path]
            path.append(min(left, key=lambda each: (cost[path[-1]][each], each)))
        improved = _improved(path, cost)
        if found is None or (_length(improved, cost), improved) < (_length(found, cost), found):
            found = improved
    assert found is not None
    return found


def _improved(path: list[int], cost: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Reverse a part as long as that shortens the path."""
    length = _length(path, cost)
    again = True
    while again:
        again = False
        for low, high in itertools.combinations(range(len(path)), 2):
            turned = path[:low] + path[low : high + 1][::-1] + path[high + 1 :]
            other = _length(turned, cost)
            if other < length - 1e-15:
                path, length, again = turned, other, True
    return tuple(path)
