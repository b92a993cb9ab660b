"""Tables against the source they were made from: on knots, between them, beyond them."""

import math
import random

import numpy as np
import pytest

from controlplane.model.plans import Provenance
from tests.unit.tuner.step.fakes import FakeParts
from tuner.serving.step.knots import Line, geometric, refined
from tuner.serving.step.lookup import at, context_step_ms, decode_step_ms
from tuner.serving.step.tabulate import tabulate

PROVENANCE = Provenance(tier="measured", source="fake")


@pytest.fixture(scope="module")
def table():
    return tabulate(FakeParts(), PROVENANCE)


def _log_uniform(rng, low, high):
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def test_error_against_direct_queries(table):
    parts, rng, errors = FakeParts(), random.Random(7), []
    for _ in range(500):
        g, k = _log_uniform(rng, 1, 512), _log_uniform(rng, 32, 32_768)
        errors.append(decode_step_ms(table, g, k) / (parts.decode_ms(g) + parts.decode_attention_ms(g, k)) - 1)
        b = _log_uniform(rng, 1, 32)
        n, past = _log_uniform(rng, 8, max(9, 8192 // b)), rng.choice([0, _log_uniform(rng, 16, 30_000)])
        truth = parts.context_ms(b * n + g) + parts.context_attention_ms(b, n, past) + parts.decode_attention_ms(g, k)
        errors.append(context_step_ms(table, b, n, past, g, k) / truth - 1)
    errors = np.abs(errors)
    assert np.median(errors) <= 0.001
    assert np.percentile(errors, 99) <= 0.02


def test_a_kernel_switch_is_found(table):
    for tokens in (600, 640, 641, 700):
        assert context_step_ms(table, 1, tokens, 0) == pytest.approx(
            FakeParts().context_ms(tokens) + FakeParts().context_attention_ms(1, tokens, 0), rel=2e-3
        )


def test_axes_are_knots_and_values_are_times(table):
    for axis in (
        table.context_tokens, table.decode_sequences, table.context_attention_batch, table.context_attention_new,
        table.context_attention_past, table.decode_attention_sequences, table.decode_attention_kv,
    ):  # fmt: skip
        assert len(axis) >= 2
        assert (np.diff(axis) > 0).all()
    assert table.context_tokens[0] == 1
    assert table.context_attention_past[0] == 0
    assert table.context_attention_new[-1] == 200_000
    assert table.context_attention_batch[-1] == 512
    assert table.decode_attention_ms.shape == (len(table.decode_attention_sequences), len(table.decode_attention_kv))


def test_beyond_the_last_knot_the_last_slope_goes_on(table):
    assert decode_step_ms(table, 2048, 1000) == pytest.approx(4.5 + 20.48 + 0.05 + 2e-7 * 2048 * 1000, rel=1e-6)


def test_below_the_first_knot_the_first_value_holds():
    axis, values = np.array([2.0, 4.0]), np.array([1.0, 3.0])
    assert at((axis,), values, (1.0,)) == 1.0
    assert at((axis,), values, (6.0,)) == 5.0


def test_few_questions_are_asked():
    parts = FakeParts()
    tabulate(parts, PROVENANCE)
    assert parts.asked < 30_000


def test_the_same_source_gives_the_same_table():
    one, two = tabulate(FakeParts(), PROVENANCE), tabulate(FakeParts(), PROVENANCE)
    assert one.context_attention_ms.tobytes() == two.context_attention_ms.tobytes()
    assert one.context_tokens.tobytes() == two.context_tokens.tobytes()


def test_what_the_source_raises_is_passed_on():
    with pytest.raises(RuntimeError):
        tabulate(FakeParts(fails_at=5_000), PROVENANCE)


def test_refinement_halves_where_it_bends_and_stops_where_it_may():
    step = Line(lambda x: 1.0 if x < 100 else 2.0, lambda x: 1.0, 1000)
    knots = refined([step], [1, 1000], share=0.01, most=64)
    assert {99, 100} <= set(knots)
    assert refined([Line(float, lambda x: 1.0, 1000)], [1, 1000], share=0.01, most=64) == [1, 1000]
    assert len(refined([Line(lambda x: math.sin(x), lambda x: 1.0, 1000)], [1, 1000], share=1e-6, most=20)) == 20


def test_geometric_knots():
    assert geometric(1, 8, 2.0) == [1, 2, 4, 8]
    assert geometric(1, 200_000, 2.0)[-1] == 200_000
