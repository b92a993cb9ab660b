from datetime import UTC, datetime, timedelta

import pytest

from operators.runtime import (
    Condition,
    dominant,
    find_condition,
    is_true,
    set_condition,
    status_changed,
    with_finalizer,
    without_finalizer,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_transition_time_moves_with_the_status_only():
    first = set_condition((), Condition("Ready", "False", "Starting", "0 of 2"), T0)
    second = set_condition(first, Condition("Ready", "False", "Starting", "1 of 2"), T0 + timedelta(minutes=1))
    third = set_condition(second, Condition("Ready", "True", "AllReady"), T0 + timedelta(minutes=2))
    assert [c[0].lastTransitionTime for c in (first, second, third)] == [
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:02:00Z",
    ]
    assert second[0].message == "1 of 2"


def test_other_conditions_stay_as_they_are_and_in_place():
    old = set_condition(set_condition((), Condition("A", "True", "Yes"), T0), Condition("B", "True", "Yes"), T0)
    new = set_condition(old, Condition("A", "False", "No"), T0)
    assert [(c.type, c.status) for c in new] == [("A", "False"), ("B", "True")]
    assert find_condition(new, "C") is None
    assert is_true(new, "B") and not is_true(new, "A")


@pytest.mark.parametrize("reason", ["", "has space", "9Lives", "x" * 1_025])
def test_a_reason_machines_cannot_use_is_refused(reason):
    with pytest.raises(ValueError, match="CamelCase"):
        Condition("Ready", "False", reason)


def test_the_earliest_broken_link_explains_the_object():
    order = ("Accepted", "Placed", "Ready")
    conditions = [
        Condition("Ready", "False", "PodsNotReady"),
        Condition("Placed", "False", "NoMatchingFlavor"),
        Condition("Accepted", "True", "Valid"),
    ]
    assert dominant(conditions, order).reason == "NoMatchingFlavor"
    assert dominant([c for c in conditions if c.status == "True"], order).reason == "Valid"
    assert dominant([], order) is None


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        (None, {}, False),
        ({"a": 1}, {"a": 1, "b": None, "c": [], "d": {}, "e": ""}, False),
        ({"a": 1}, {"a": 2}, True),
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 0}, {}, True),  # zero is a value
        ({"l": [1, 2]}, {"l": (1, 2)}, False),
        ({"l": [1, 2]}, {"l": [2, 1]}, True),
        (
            {"conditions": [{"type": "R", "status": "True", "reason": "X", "lastTransitionTime": "a"}]},
            {"conditions": [Condition("R", "True", "X", lastTransitionTime="b")]},
            False,
        ),
        ({"lastTransitionTime": "a"}, {"lastTransitionTime": "b"}, True),
    ],
)
def test_what_counts_as_a_change_of_status(old, new, changed):
    assert status_changed(old, new) is changed


def test_finalizers_are_written_only_when_they_change():
    assert with_finalizer(["a"], "b") == ("a", "b")
    assert with_finalizer(["a"], "a") is None
    assert without_finalizer(["a", "b"], "a") == ("b",)
    assert without_finalizer(["b"], "a") is None
