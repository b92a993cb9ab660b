"""Traits of frameworks and of protocols that show in a step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.tuner.training.cases import one
from tuner.training.compute import layer_time
from tuner.training.constants import shipped
from tuner.training.hardware import hardware
from tuner.training.software import software
from tuner.training.transport import achieved_bytes_per_s


def test_a_gradient_is_added_where_it_is_made_or_in_a_kernel_of_its_own() -> None:
    assert software("megatron-lm").accumulate_bytes(2.0, 4.0) == 8  # the sum is read and written
    assert software("megatron-deepspeed").accumulate_bytes(2.0, 2.0) == 6  # so is the gradient read
    assert software("eager").accumulate_bytes(4.0, 4.0) == 12
    assert software("fsdp").accumulate_bytes(2.0, 4.0) == 0


def test_backward_traffic_hides_behind_weight_gradients_where_the_framework_does_that() -> None:
    c = one(tp=8, recompute="full")
    waits = replace(c, beside_weights=np.zeros(1))
    hidden, plain = (layer_time(each, hardware(each, shipped()), shipped()) for each in (c, waits))
    assert hidden.forward == pytest.approx(plain.forward, rel=1e-2)  # the host shows a little more
    assert hidden.backward[0] < plain.backward[0]
    assert hidden.exposed[0] < plain.exposed[0]
    alone = one(tp=1)
    assert layer_time(alone, hardware(alone, shipped()), shipped()).exposed[0] == 0


def test_a_protocol_the_host_carries_leaves_less_of_a_faster_line() -> None:
    lines = np.array([1.25e9, 3.125e9, 6.25e9, 12.5e9])
    left = achieved_bytes_per_s(lines, 0.5, True) / lines
    assert left[2] == pytest.approx(0.5)
    assert np.all(np.diff(left) < 0) and np.all(np.diff(left * lines) > 0)
    assert achieved_bytes_per_s(lines, 0.5, False) / lines == pytest.approx(0.5)
