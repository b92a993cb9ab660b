"""A new version of the operator renders the same specs as other pods: no change is rolled out untried on that account."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.serving.canary_world import HOLD, CanaryWorld, wanted

CANARY = {"hold": HOLD, "verdict": {"notWorseThanPct": 15}}
REPLICAS = 3


def begun(made: CanaryWorld) -> int:
    return [event.reason for event in made.events].count("CanaryBegun")


def change(made: CanaryWorld, slowdown: float, seqs: int = 128) -> str:
    """Apply one, slower by so much; the revision it renders as."""
    made.apply(wanted(seqs, CANARY, replicas=REPLICAS))
    return slower(made, slowdown)


def slower(made: CanaryWorld, slowdown: float) -> str:
    new = made.revision()
    made.slow = lambda name: slowdown if name == new else 1.0
    return new


def untried(made: CanaryWorld, new: str) -> Callable[[], bool]:
    """Whether more than the one canary runs without a verdict. Looked at after every step."""
    return lambda: made.phase not in ("Promoted",) and len(made.alive_of(new)) > 1


@pytest.mark.parametrize("after_s", [0.0, 0.5, 2.0, 6.0, 60.0])
@pytest.mark.parametrize(("slowdown", "phase"), [(1.0, "Promoted"), (1.5, "RolledBack")])
def test_a_change_right_after_an_upgrade_is_tried_first(after_s: float, slowdown: float, phase: str) -> None:
    made = CanaryWorld.running(replicas=REPLICAS)
    with made.upgraded():
        made.watch(after_s)
        new = change(made, slowdown)
        made.watch(30, untried(made, new))
        assert len(made.alive_of(new)) == 1
        assert len(made.alive()) <= REPLICAS + 1, "maxSurge holds for both rollouts together"
        made.watch(900, lambda: made.phase in ("Promoted", "RolledBack"))
        assert made.phase == phase, made.canary
        made.watch(90)
        assert len(made.alive()) == REPLICAS
        assert len(made.alive_of(new)) == (REPLICAS if phase == "Promoted" else 0)
        assert len({pod.revision for pod in made.alive()}) == 1, "what is stable is rendered anew after the verdict"
    assert begun(made) == 1
    assert made.unserved == 0


def test_what_was_rejected_stays_rejected() -> None:
    made = CanaryWorld.running(replicas=REPLICAS)
    change(made, 1.5)
    made.watch(900, lambda: made.phase == "RolledBack")
    old = {pod.revision for pod in made.alive()}
    with made.upgraded():
        new = slower(made, 1.5)
        made.watch(200, lambda: bool(made.alive_of(new)))
        assert made.alive_of(new) == []
        assert made.phase == "RolledBack"
        assert not old & {pod.revision for pod in made.alive()}, "the stable revision is rendered anew"
    assert begun(made) == 1


def test_a_canary_under_way_begins_anew_and_compares_what_will_be_rolled_out() -> None:
    made = CanaryWorld.running(replicas=REPLICAS)
    before = change(made, 1.0)
    made.watch(40)
    assert made.canary.windows > 3
    with made.upgraded():
        new = slower(made, 1.5)
        made.watch(15, untried(made, new))
        assert (made.alive_of(before), len(made.alive_of(new))) == ([], 1)
        assert made.canary.revision == new
        made.watch(900, lambda: made.phase in ("Promoted", "RolledBack"))
        assert made.phase == "RolledBack"
    assert begun(made) == 2


def test_what_was_promoted_goes_on_being_rolled_out() -> None:
    made = CanaryWorld.running(replicas=REPLICAS)
    change(made, 1.0)
    made.watch(900, lambda: made.phase == "Promoted")
    with made.upgraded():
        new = slower(made, 1.5)
        made.watch(60)
        assert len(made.alive_of(new)) == len(made.alive()) == REPLICAS
    assert begun(made) == 1


def test_a_new_rendering_that_never_answers_can_be_mended_by_a_change() -> None:
    made = CanaryWorld.running(replicas=REPLICAS)
    old = {pod.revision for pod in made.alive()}
    with made.upgraded():
        made.stuck.add(made.revision())
        made.watch(20)
        assert old <= {pod.revision for pod in made.alive()}
        new = change(made, 1.0)
        made.watch(900, lambda: made.phase == "Promoted")
        made.watch(120)
        assert len(made.alive_of(new)) == len(made.alive()) == REPLICAS


@settings(deadline=None, max_examples=20)
@given(
    before_s=st.integers(0, 40),
    between_s=st.integers(0, 40),
    deaths=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 6)), max_size=8),
    slowdown=st.sampled_from([1.0, 1.5]),
)
def test_killed_anywhere_around_an_upgrade_it_comes_to_the_same_end(
    before_s: int, between_s: int, deaths: list[tuple[int, int]], slowdown: float
) -> None:
    """The change comes before, with or after the upgrade; the new operator dies after any action of any decision."""
    made = CanaryWorld.running(replicas=2)
    first = made.revision()
    made.slow = lambda name: 1.0
    made.watch(before_s)
    if before_s % 2:
        made.apply(wanted(128, CANARY, replicas=2))
        made.watch(between_s)
    with made.upgraded():
        made.step(crash_after=between_s % 5)
        made.apply(wanted(128, CANARY, replicas=2))
        new = slower(made, slowdown)
        for pause_s, actions in deaths:
            made.watch(pause_s)
            made.step(crash_after=actions)
            if made.phase != "Promoted":
                assert len(made.alive_of(new)) <= 1
        made.watch(1200, lambda: made.phase in ("Promoted", "RolledBack"))
        made.watch(90)
        assert made.phase == ("Promoted" if slowdown == 1.0 else "RolledBack")
        assert len({pod.revision for pod in made.alive()}) == 1
        assert first not in {pod.revision for pod in made.alive()}
        assert made.unserved == 0
