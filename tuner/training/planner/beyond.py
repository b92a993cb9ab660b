"""What lies beside the answer: plans that no program launches, and the same job on fewer nodes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from controlplane.model.errors import InvalidSpec, TrimtabError
from tuner.training.planner.answer import Planner, Ranked, TrainingAnswer, settings
from tuner.training.planner.launchable import theoretical
from tuner.training.planner.question import PlanQuestion
from tuner.training.planner.search import Progress

NOTE = "of papers, costed by the model: no framework's table says that it launches them; not exported"
_HALVINGS = 4  # of the number of nodes


@dataclass(frozen=True, slots=True)
class Theoretical:
    """Plans faster than the best that can be launched. `bound_s`: none is faster, launchable or not."""

    plans: tuple[Ranked, ...]
    bound_s: float | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        plans = [{"plan": settings(item.plan), **item.predicted, "terms_s": item.terms_s} for item in self.plans]
        return {"note": NOTE, "bound_s": self.bound_s, "faster_plans": plans}


@dataclass(frozen=True, slots=True)
class Size:
    """The best plan on so many accelerators, or why there is none. `on_front`: no other size is at least as good in
    time, energy and cost, of what is known, and better in one."""

    accelerators: int
    best: Ranked | None
    message: str = ""
    on_front: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        found: dict[str, Any] = {"accelerators": self.accelerators, "on_front": self.on_front}
        if self.best is None:
            return found | {"message": self.message}
        return found | {"plan": settings(self.best.plan), **self.best.predicted}


def check_beside(question: PlanQuestion, *, theoretical: bool, sizes: bool) -> None:
    """Raises InvalidSpec, before anything is searched, for what is not told of several pools."""
    if len(question.case.pools) > 1:
        for name, asked in (("theoretical", theoretical), ("sizes", sizes)):
            if asked:
                raise InvalidSpec("asks for one pool", field=name, value=len(question.case.pools), limit="one pool",
                                  hint="leave it out; --what-if without-pool=NAME compares pools")  # fmt: skip


def beyond(
    planner: Planner, question: PlanQuestion, answer: TrainingAnswer, *, top: int = 3,
    progress: Progress | None = None, limit_s: float | None = None,
) -> Theoretical:  # fmt: skip
    """The fastest plans of all that the model can cost."""
    found = planner.plan(replace(question, rules=theoretical()), top=top, progress=progress, limit_s=limit_s)
    launched = answer.best[0].predicted["iteration_s"]
    faster = tuple(item for item in found.best if item.predicted["iteration_s"] < launched * (1.0 - 1e-9))
    return Theoretical(faster, found.proof.bound_s)


def sizes(
    planner: Planner, question: PlanQuestion, answer: TrainingAnswer, *, limit_s: float | None = None
) -> tuple[Size, ...]:
    """The same job on half the nodes, a quarter, and so on, the answer's own size first: what time buys in energy and
    cost. Raises InvalidSpec for several pools."""
    check_beside(question, theoretical=False, sizes=True)
    pool = question.case.pools[0]
    found = [Size(pool.gpus, answer.best[0])]
    gpus = pool.gpus
    for _ in range(_HALVINGS):
        if gpus % 2 or gpus // 2 < pool.gpus_per_node:
            break
        gpus //= 2
        case = replace(question.case, pools=(replace(pool, gpus=gpus),))
        try:
            best = planner.plan(replace(question, case=case), top=1, limit_s=limit_s).best[0]
        except TrimtabError as error:
            found.append(Size(gpus, None, str(error)))
        else:
            found.append(Size(gpus, best))
    return tuple(replace(size, on_front=_on_front(size, found)) for size in found)


def _on_front(size: Size, every: list[Size]) -> bool:
    if size.best is None:
        return False
    own = _scores(size.best)
    others = [_scores(other.best) for other in every if other is not size and other.best is not None]
    return not any(
        all(a <= b for a, b in zip(other, own, strict=True)) and other != own
        for other in others
    )  # fmt: skip


def _scores(item: Ranked) -> tuple[float, ...]:
    """Seconds, joules and money of one iteration; what is unknown is unknown of all sizes and compares as equal."""
    said = item.predicted
    return tuple(float(said.get(name) or 0.0) for name in ("iteration_s", "energy_j", "cost_per_iteration"))
