"""What a change makes of the answer: the winners side by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tuner.training.planner.answer import Ranked, TrainingAnswer
from tuner.training.planner.explain import summary

_NUMBERS = ("iteration_s", "tokens_per_s", "mfu", "energy_j", "cost_per_billion_tokens")


@dataclass(frozen=True, slots=True)
class Difference:
    """`before` and `after`: the best plans; None where none fits. `numbers`: of both, None where unknown."""

    change: str
    before: str
    after: str | None
    accelerators: tuple[int, int | None]
    numbers: dict[str, tuple[float | None, float | None]]
    message: str

    def as_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return asdict(self)


def difference(change: str, before: TrainingAnswer, after: TrainingAnswer | str) -> Difference:
    """The winners of both answers; `after` may be the reason why there is none."""
    one = before.best[0]
    if isinstance(after, str):
        return Difference(change, summary(one.plan), None, (one.plan.ranks, None), {}, after)
    two = after.best[0]
    numbers = {name: (_number(one, name), _number(two, name)) for name in _NUMBERS}
    return Difference(
        change, summary(one.plan), summary(two.plan), (one.plan.ranks, two.plan.ranks),
        {name: pair for name, pair in numbers.items() if pair != (None, None)}, _message(one, two),
    )  # fmt: skip


def _number(item: Ranked, name: str) -> float | None:
    value = item.predicted.get(name)
    return None if value is None else float(value)


def _message(one: Ranked, two: Ranked) -> str:
    """By tokens per second: iterations of different batches do not compare."""
    share = two.predicted["tokens_per_s"] / one.predicted["tokens_per_s"] - 1.0
    word = "more" if share >= 0 else "fewer"
    same = ", with the same plan" if summary(one.plan) == summary(two.plan) else ""
    return f"{100 * abs(share):.1f} % {word} tokens per second{same}"
