"""Cost per million tokens from pool prices."""

import pytest

from controlplane.model.errors import UnknownName
from controlplane.model.plans import PlannablePool
from tuner.serving.cost import cost


def pool(name, price=None, currency="USD"):
    return PlannablePool(
        name=name, accelerator="h100-sxm-80gb", free=8, price_per_accelerator_hour=price, currency=currency
    )


def test_by_hand():
    got = cost({"a": 8, "b": 4}, [pool("a", 2.5), pool("b", 1.0)], output_tokens_per_second=2_000)
    assert got.per_hour == 24.0
    assert got.per_million_output_tokens == pytest.approx(24.0 / 7.2)
    assert got.currency == "USD"


def test_an_unknown_price_is_not_free():
    assert cost({"a": 1, "b": 1}, [pool("a", 2.5), pool("b")], output_tokens_per_second=100) is None


def test_no_exchange_rate_is_invented():
    pools = [pool("a", 2.5), pool("b", 2.0, "EUR")]
    assert cost({"a": 1, "b": 1}, pools, output_tokens_per_second=100) is None
    assert cost({"b": 1}, pools, output_tokens_per_second=100).currency == "EUR"


def test_no_tokens_no_cost_per_token():
    assert cost({"a": 1}, [pool("a", 2.5)], output_tokens_per_second=0).per_million_output_tokens is None


def test_an_unknown_pool_is_named():
    with pytest.raises(UnknownName) as error:
        cost({"c": 1}, [pool("a", 2.5)], output_tokens_per_second=1)
    assert "known: a" in str(error.value)
