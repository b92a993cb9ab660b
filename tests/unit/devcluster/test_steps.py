"""Steps run in order, side by side where they may, and stop at the first failure."""

from __future__ import annotations

import io
import threading

import pytest

from devcluster.errors import DevclusterError
from devcluster.progress import Progress
from devcluster.steps import Step, check, run_all


def quiet() -> Progress:
    return Progress(out=io.StringIO())


def test_a_step_starts_only_after_those_it_waits_for() -> None:
    seen: list[str] = []

    def note(name: str) -> Step:
        return Step(name, lambda _: seen.append(name), {"c": ("a", "b"), "b": ("a",)}.get(name, ()))

    run_all([note("c"), note("b"), note("a")], quiet())

    assert seen == ["a", "b", "c"]


def test_independent_steps_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=5)

    run_all([Step("a", lambda _: both.wait() and None), Step("b", lambda _: both.wait() and None)], quiet())

    assert not both.broken


def test_a_failure_stops_what_has_not_started_and_is_raised() -> None:
    ran: list[str] = []

    def fail(_: object) -> None:
        raise DevclusterError("broken on purpose")

    with pytest.raises(DevclusterError, match="on purpose"):
        run_all([Step("a", fail), Step("b", lambda _: ran.append("b"), ("a",))], quiet())
    assert ran == []


def test_wrong_plans_are_refused() -> None:
    def nothing(_: object) -> None:
        return None

    with pytest.raises(DevclusterError, match="wait for each other"):
        check([Step("a", nothing, ("b",)), Step("b", nothing, ("a",))])
    with pytest.raises(DevclusterError, match="not a step"):
        check([Step("a", nothing, ("x",))])
    with pytest.raises(DevclusterError, match="share one name"):
        check([Step("a", nothing), Step("a", nothing)])


def test_lines_show_what_happened_and_durations_are_kept() -> None:
    out, now = io.StringIO(), iter([0.0, 1.0, 3.5, 3.5, 3.5]).__next__
    progress = Progress(out=out, clock=now)
    record = progress.begin("etcd")
    progress.finish(record, detail="ready")

    assert "2.5s ok  etcd: ready" in out.getvalue()
    assert progress.durations_s() == {"etcd": 2.5}


def test_a_failed_step_is_marked() -> None:
    out = io.StringIO()

    def fail(_: object) -> None:
        raise DevclusterError("no")

    with pytest.raises(DevclusterError):
        run_all([Step("kubelet", fail)], Progress(out=out))
    assert "!!  kubelet" in out.getvalue()
