"""Run named steps as soon as the steps they wait for are done, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent import futures
from dataclasses import dataclass

from devcluster.errors import DevclusterError
from devcluster.progress import Progress

StepBody = Callable[[Callable[[str], None]], str | None]


@dataclass(frozen=True)
class Step:
    """`body` gets a function that reports what it is doing; the text it returns is shown when it is done."""

    name: str
    body: StepBody
    after: tuple[str, ...] = ()


def check(steps: Iterable[Step]) -> list[Step]:
    """The steps in an order that respects `after`. Raises DevclusterError on a cycle, a double or an unknown name."""
    todo = {step.name: step for step in steps}
    listed = list(steps)
    if len(todo) != len(listed):
        raise DevclusterError("two steps share one name")
    for step in listed:
        for name in step.after:
            if name not in todo:
                raise DevclusterError(f"step {step.name!r} waits for {name!r}, which is not a step")
    order: list[Step] = []
    while todo:
        ready = [step for step in todo.values() if not any(name in todo for name in step.after)]
        if not ready:
            raise DevclusterError(f"steps wait for each other: {', '.join(sorted(todo))}")
        for step in ready:
            order.append(todo.pop(step.name))
    return order


def run_all(steps: list[Step], progress: Progress, workers: int = 8) -> None:
    """Run all steps. The first failure stops new ones from starting and is raised once the running ones have ended."""
    waiting = check(steps)
    done: set[str] = set()
    failure: BaseException | None = None
    with futures.ThreadPoolExecutor(max_workers=workers) as pool:
        running: dict[futures.Future[None], Step] = {}
        while running or (waiting and failure is None):
            if failure is None:
                for step in [s for s in waiting if done.issuperset(s.after)]:
                    waiting.remove(step)
                    running[pool.submit(_run_one, step, progress)] = step
            finished, _ = futures.wait(running, return_when=futures.FIRST_COMPLETED)
            for future in finished:
                step = running.pop(future)
                error = future.exception()
                if error is None:
                    done.add(step.name)
                else:
                    failure = failure or error
    if failure is not None:
        raise failure


def _run_one(step: Step, progress: Progress) -> None:
    record = progress.begin(step.name)
    try:
        detail = step.body(lambda text: progress.note(step.name, text))
    except BaseException:
        progress.finish(record, "failed")
        raise
    progress.finish(record, "done", detail or "")
