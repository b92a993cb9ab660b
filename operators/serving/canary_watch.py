"""Windows of live counters of two revisions, at the same time or in turns. Pure: readings come in as arguments.

What is under way here is lost with the process, and begun anew: a window counts once it is whole and stands in the
status, so that nothing is counted twice and nothing half.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

from controlplane.model.canary import CanaryStatus, SideCounts
from controlplane.model.live import EngineCounters, EnginePod, LiveReading
from operators.serving.canary_stats import added

Side = Literal["stable", "canary"]

# Readings are a little late, each a little differently. One that comes late ends a longer window, of both sides alike: on
# a busy machine most do. Only so much of it counts as watched, whatever the clock says.
_EARLY_S = 0.25
_LONGEST = 4.0
# After the Service was turned: until kube-proxy has it, and requests that arrived before are through their first token.
_SETTLE_SHARE = 0.2
_SETTLE_LEAST_S = 1.0
# In turns, the side whose turn it is must answer nearly all: clients that keep their connections stay where they were.
_OWN_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Turn:
    """In turns: which pair, whose turn, since when the Service sends to it; what the first turn of the pair gave."""

    pair: int
    second: bool
    settled_s: float
    first: Growth | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """What one side did in a window: sums over its replicas. `replicas` that could be read at both ends."""

    replicas: int = 0
    ttft_sum_s: float = 0.0
    ttft_count: float = 0.0
    tpot_sum_s: float = 0.0
    tpot_count: float = 0.0
    ended: float = 0.0
    failed: float = 0.0
    asked: float = 0.0  # requests that came
    answered: float = 0.0  # first tokens, whether or not the window counts for a pair
    waiting: float = 0.0  # requests that still wait for their first token at the end
    hung: float = 0.0  # of these, at replicas that gave none in all the window though requests waited at its begin too

    def __add__(self, other: Growth) -> Growth:
        return Growth(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))


@dataclass(frozen=True, slots=True)
class Watch:
    """What one decision leaves for the next: the window under way."""

    candidate: str
    begins: LiveReading | None = None
    turn: Turn | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at the readings leads to. `serve`: the side that the Service sends to; None: both. `read`: read the
    engines now. `again_s`: when the window ends (Unix time). `hung`: in the window that just ended a replica of the canary
    answered nobody, and every stable one did."""

    status: CanaryStatus
    watch: Watch
    read: bool = False
    again_s: float | None = None
    serve: Side | None = None
    hung: bool = False


def beside(
    status: CanaryStatus,
    watch: Watch,
    live: LiveReading | None,
    pods: Mapping[Side, Sequence[EnginePod]],
    window_s: float,
    now_s: float,
) -> Seen:
    """Both serve at the same time: a window gives one pair."""
    begins, hung = watch.begins, False
    if live is not None and begins is not None and live.time_s - begins.time_s >= window_s - _EARLY_S:
        lasted_s = live.time_s - begins.time_s
        canary, stable = (growth(begins, live, pods[side]) for side in ("canary", "stable"))
        status = _lasted(paired(status, canary, stable), min(lasted_s, _LONGEST * window_s), canary, stable)
        begins, hung = live, bool(canary.hung and not stable.hung)
    elif begins is None and live is not None and now_s - live.time_s <= window_s / 2:
        begins = live
    if begins is None or begins.time_s > now_s + window_s:  # the latter: the clock was set back
        return Seen(status, replace(watch, begins=None), read=True, hung=hung)
    ends_s, kept = begins.time_s + window_s, replace(watch, begins=begins)
    return Seen(status, kept, read=now_s >= ends_s, again_s=max(ends_s, now_s + 1), hung=hung)


def in_turns(
    status: CanaryStatus,
    watch: Watch,
    live: LiveReading | None,
    pods: Mapping[Side, Sequence[EnginePod]],
    window_s: float,
    now_s: float,
) -> Seen:
    """One replica each: the Service sends to one, then to the other, for windows of equal length; the order of each pair
    is drawn, so that what grows or falls with time favours neither."""
    turn, begins = watch.turn, watch.begins
    if turn is None or turn.settled_s > now_s + window_s:
        turn, begins = _turn(0 if turn is None else turn.pair, False, window_s, now_s), None
    side = side_of(status.candidate, turn)
    if begins is None:
        if live is not None and live.time_s >= turn.settled_s:
            begins = live
        else:
            kept = replace(watch, turn=turn, begins=None)
            return Seen(status, kept, now_s >= turn.settled_s, max(turn.settled_s, now_s + 0.5), side)
    ends_s = begins.time_s + window_s
    if live is None or live.time_s < ends_s - _EARLY_S:
        kept = replace(watch, turn=turn, begins=begins)
        return Seen(status, kept, now_s >= ends_s, max(ends_s, now_s + 0.5), side)
    mine = growth(begins, live, pods[side])
    other = growth(begins, live, pods["stable" if side == "canary" else "canary"])
    alone = mine.ttft_count >= _OWN_SHARE * (mine.ttft_count + other.ttft_count)
    given = mine if alone else replace(mine, ttft_count=0.0, tpot_count=0.0)
    if not turn.second or turn.first is None:
        following = replace(_turn(turn.pair, True, window_s, now_s), first=given)
    else:
        canary, stable = (given, turn.first) if side == "canary" else (turn.first, given)
        status = _lasted(paired(status, canary, stable), 2 * window_s, canary, stable)
        following = _turn(turn.pair + 1, False, window_s, now_s)
    kept = Watch(watch.candidate, None, following)
    return Seen(status, kept, False, following.settled_s, side_of(status.candidate, following))


def side_of(candidate: str, turn: Turn) -> Side:
    """Whose turn it is: the order of a pair is drawn from the change's name."""
    drawn = hashlib.sha256(f"{candidate}:{turn.pair}".encode()).digest()[0] & 1
    return "canary" if bool(drawn) != turn.second else "stable"


def _turn(pair: int, second: bool, window_s: float, now_s: float) -> Turn:
    return Turn(pair, second, now_s + max(_SETTLE_LEAST_S, _SETTLE_SHARE * window_s))


def growth(begins: LiveReading, ends: LiveReading, pods: Sequence[EnginePod]) -> Growth:
    """Of the pods that could be read at both ends and did not start again in between."""
    total = Growth()
    for pod in pods:
        before, after = begins.counters.get(pod.uid), ends.counters.get(pod.uid)
        if before is None or after is None:
            continue
        steps = _steps(before, after)
        if steps is None:
            continue
        total += _grown(steps, before, after)
    return total


def _grown(
    steps: tuple[float, float, float, float, float, float], before: EngineCounters, after: EngineCounters
) -> Growth:
    """Of one replica."""
    answered, ended, waiting = steps[1], steps[4], after.unanswered or 0.0
    came = 0.0
    if before.in_flight is not None and after.in_flight is not None:
        came = ended + after.in_flight - before.in_flight
    hung = min(waiting, before.unanswered or 0.0) if not answered else 0.0
    return Growth(1, *steps, max(came, answered), answered, waiting, hung)


def _steps(before: EngineCounters, after: EngineCounters) -> tuple[float, float, float, float, float, float] | None:
    """None: no page with a first token's time on it, figures that no counter has, or counters that fell (the engine
    started again)."""
    if after.ttft_count is None or before.ttft_count is None or not (before.possible and after.possible):
        return None
    steps = (
        _step(before.ttft_sum_s, after.ttft_sum_s),
        _step(before.ttft_count, after.ttft_count),
        _step(before.tpot_sum_s, after.tpot_sum_s),
        _step(before.tpot_count, after.tpot_count),
        _step(before.ended, after.ended),
        _step(before.failed, after.failed),
    )
    return None if min(steps) < 0 else steps


def _step(old: float | None, new: float | None) -> float:
    return 0.0 if old is None or new is None else new - old


def paired(status: CanaryStatus, canary: Growth, stable: Growth) -> CanaryStatus:
    """One pair more, for each metric that both sides have a figure of."""
    if not (canary.replicas and stable.replicas and canary.ttft_count and stable.ttft_count):
        return status
    requests = (canary.ttft_count, stable.ttft_count)
    means = (canary.ttft_sum_s / canary.ttft_count, stable.ttft_sum_s / stable.ttft_count)
    ttft = added(status.ttft_ratio_pct, requests, means)
    tpot = status.tpot_ratio_pct
    if canary.tpot_count and stable.tpot_count:
        # Tokens of one request belong together: requests are what is counted, here as there.
        means = (canary.tpot_sum_s / canary.tpot_count, stable.tpot_sum_s / stable.tpot_count)
        tpot = added(tpot, requests, means)
    return status.model_copy(
        update={
            "ttft_ratio_pct": ttft,
            "tpot_ratio_pct": tpot,
            "canary": _counted(status.canary, canary),
            "stable": _counted(status.stable, stable),
        }
    )


def _counted(before: SideCounts, more: Growth) -> SideCounts:
    requests, each = before.requests + more.ttft_count, before.per_replica + more.ttft_count / more.replicas
    return before.model_copy(update={"requests": requests, "per_replica": each})


def _lasted(status: CanaryStatus, watched_s: float, canary: Growth, stable: Growth) -> CanaryStatus:
    """Time passes and failures count whether or not there is a pair."""
    sides = {
        name: side.model_copy(
            update={
                "ended": side.ended + more.ended,
                "errors": side.errors + more.failed,
                "asked": side.asked + more.asked,
                "answered": side.answered + more.answered,
                "waiting": more.waiting if more.replicas else side.waiting,
            }
        )
        for name, side, more in (("canary", status.canary, canary), ("stable", status.stable, stable))
    }
    silent = status.silent_windows
    if canary.answered:
        silent = 0
    elif canary.asked and canary.hung and stable.answered:
        silent += 1
    return status.model_copy(
        update={
            "watched_seconds": round(status.watched_seconds + watched_s, 3),
            "windows": status.windows + 1,
            "pages": status.pages + bool(canary.replicas and stable.replicas),
            "silent_windows": silent,
            **sides,
        }
    )
