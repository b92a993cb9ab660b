"""Best-first search over candidates: always refine the one that could still be best."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from controlplane.model.errors import TrimtabError
from tuner.serving.planner.candidate import Candidate
from tuner.serving.planner.pieces import Progress

# Step tables that one question asks for, and while nothing keeps the promise. Three kinds of accelerators need about 54 for
# DeepSeek-V3 with separate roles, one kind 9 for a dense model. Counted, not timed, and whether or not they are on disk: the
# same question has the same answer everywhere.
TABLES_MAX = 64
TABLES_MAX_EMPTY = 96


@dataclass(slots=True)
class Found:
    """Finished candidates in rank order, the unfinished (best bound first), those that cannot keep the promise, and those
    that were left because the question had asked for `TABLES_MAX` step tables (best bound first)."""

    done: list[Candidate] = field(default_factory=list)
    advisory: list[Candidate] = field(default_factory=list)
    open: list[Candidate] = field(default_factory=list)
    unsearched: list[Candidate] = field(default_factory=list)
    lost: list[Candidate] = field(default_factory=list)


def search(candidates: Iterable[Candidate], top: int, progress: Progress | None = None) -> Found:
    """Refines until `top` deployable candidates stand before every bound. Advisory candidates are refined while their
    bound is above the best deployable one, so that the answer can say what a better installation would gain."""
    found = Found()
    heap: list[tuple[float, float, tuple[object, ...], Candidate]] = []

    def push(candidate: Candidate) -> None:
        if candidate.state == "lost":
            found.lost.append(candidate)
        else:
            heapq.heappush(heap, (-candidate.rank[0], -candidate.rank[1], candidate.key, candidate))

    for candidate in candidates:
        try:
            candidate.start()
        except TrimtabError as error:
            candidate.give_up("NoStepTimes", str(error))
        push(candidate)
    steps, finished = 0, False
    while heap and len(found.done) < top:
        candidate = heapq.heappop(heap)[-1]
        if candidate.state == "done":
            (found.done if candidate.advisory is None else found.advisory).append(candidate)
            if progress is not None:
                progress(f"found: {candidate.label}", _share(len(found.done), top, steps))
            continue
        if candidate.reconsider():
            push(candidate)
            continue
        if candidate.advisory is not None and (found.done or len(found.advisory) >= top):
            found.open.append(candidate)  # it can no longer be better than what can be run, or enough are known
            continue
        if _too_many_tables(candidate, finished):
            candidate.reason = "NotSearched"
            found.unsearched.append(candidate)
            continue
        candidate.refine()
        finished |= candidate.deployment is not None and candidate.advisory is None
        steps += 1
        if progress is not None:
            progress(f"weighing {candidate.label}", _share(len(found.done), top, steps))
        push(candidate)
    found.done.sort(key=lambda item: (-item.rank[0], -item.rank[1], item.key))
    found.open += [item[-1] for item in sorted(heap, key=lambda item: item[:3])]
    return found


def _too_many_tables(candidate: Candidate, finished: bool) -> bool:
    wanted = candidate.new_tables()
    return wanted > 0 and candidate.evaluator.tables + wanted > (TABLES_MAX if finished else TABLES_MAX_EMPTY)


def _share(done: int, top: int, steps: int) -> float:
    """Progress cannot be known in advance: finished candidates, and a slow approach to the next one."""
    return min(0.99, (done + steps / (steps + 40)) / (top + 1))
