import pytest
from pydantic import ValidationError

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, TrimtabError, UnknownName
from controlplane.model.plans import Allowed, Lengths, PlannablePool, Workload
from controlplane.model.serving import LatencyTarget, Slo
from tests.unit.tuner.planner.fakes import FakePieces, pool, request
from tuner.serving.planner import Installation, Planner


def refused(kind: type[TrimtabError], field: str, installation=None, **changes) -> TrimtabError:
    planner = Planner(pieces=FakePieces(), catalog=load(), installation=installation or Installation())
    with pytest.raises(kind) as caught:
        planner.plan(request(**changes))
    assert caught.value.field == field
    return caught.value


def test_an_unknown_model_names_the_nearest():
    assert "llama-3.1-70b" in str(refused(UnknownName, "model", model="llama-3.1-70"))


def test_an_unknown_accelerator_names_the_nearest():
    said = refused(UnknownName, "pools[0].accelerator", pools=[pool(accelerator="h100-sxm")])
    assert "h100-sxm-80gb" in str(said)


def test_an_unknown_nic_names_its_field():
    refused(UnknownName, "pools[0].nic", pools=[pool(nic="infinibnd")])


def test_pools_with_nothing_free():
    assert refused(InvalidSpec, "pools[0].free", pools=[pool(free=0)]).limit == "at least 1 in one pool"


def test_a_pool_listed_twice():
    refused(InvalidSpec, "pools[1].name", pools=[pool(), pool()])


def test_allowed_accelerators_that_no_pool_has():
    said = refused(InvalidSpec, "allowed.accelerators", allowed=Allowed(accelerators=["l40s"]))
    assert said.limit == "h100-sxm-80gb"


def test_an_engine_that_is_not_installed():
    refused(
        InvalidSpec,
        "allowed.engines[0]",
        installation=Installation(engines=frozenset({"openvino"})),
        allowed=Allowed(engines=["vllm"]),
    )


def test_limits_of_an_slo_that_contradict_each_other():
    said = refused(InvalidSpec, "slo.ttftMs.p50", slo=Slo(ttft_ms=LatencyTarget(p50=400, p99=300)))
    assert said.value == 400 and said.limit == "at most 300"


def test_a_workload_longer_than_the_context():
    long = Workload(rate_per_second=1, input=Lengths(tokens=130_000), output=Lengths(tokens=2_000))
    said = refused(InvalidSpec, "workload.input.tokens", workload=long)
    assert "131072" in str(said)


@pytest.mark.parametrize(
    ("arrivals", "one", "other"),
    [("closed", "ratePerSecond", "concurrency"), ("poisson", "concurrency", "ratePerSecond"),
     ("trace", "ratePerSecond", "trace"), ("trace", "concurrency", "trace")],
)  # fmt: skip
def test_a_load_that_the_arrivals_would_ignore_names_both_fields(arrivals, one, other):
    said = {"ratePerSecond": 4, "concurrency": 8, "trace": "t.jsonl"}
    said = {name: value for name, value in said.items() if name in (one, other)}
    with pytest.raises(ValidationError, match=f"{one}: has no effect beside {other}"):
        Workload.model_validate({"arrivals": arrivals, "input": {"tokens": 9}, "output": {"tokens": 9}, **said})


def test_a_tpot_limit_where_every_output_is_one_token():
    one = Workload(rate_per_second=1, input=Lengths(tokens=100), output=Lengths(tokens=1))
    said = refused(InvalidSpec, "slo.tpotMs", workload=one, slo=Slo(tpot_ms=LatencyTarget(p95=50)))
    assert "drop the TPOT limit" in str(said)


def test_a_tpot_limit_on_a_trace_of_one_token_outputs(tmp_path):
    trace = tmp_path / "t.jsonl"
    trace.write_text("".join(f'{{"arrival_s": {at}, "isl": 100, "osl": 1}}\n' for at in range(4)))
    workload = Workload(arrivals="trace", trace=str(trace))
    refused(InvalidSpec, "slo.tpotMs", workload=workload, slo=Slo(tpot_ms=LatencyTarget(p95=50)))


def test_a_shared_prefix_as_long_as_the_prompt():
    workload = Workload(
        rate_per_second=1, input=Lengths(tokens=100), output=Lengths(tokens=10), shared_prefix_tokens=100
    )
    refused(InvalidSpec, "workload.sharedPrefixTokens", workload=workload)


def test_cost_without_a_price():
    refused(InvalidSpec, "pools[0].pricePerAcceleratorHour", objective="goodput-per-cost")


def test_prices_in_two_currencies():
    pools = [
        pool(price_per_accelerator_hour=2.0),
        pool("other", "l40s", price_per_accelerator_hour=1.0, currency="EUR"),
    ]
    refused(InvalidSpec, "pools[0].currency", pools=pools, objective="goodput-per-cost")


def test_a_model_that_fits_nowhere_names_the_nearest_and_its_bytes():
    with pytest.raises(TrimtabError) as caught:
        Planner(pieces=FakePieces(weights=9e13)).plan(request())
    assert caught.value.reason == "MemoryShort"
    assert "bytes short" in str(caught.value) and caught.value.hint


@pytest.mark.parametrize("number", ["Infinity", "NaN", "1e999"])
def test_what_is_no_number_is_refused(number):
    said = f'{{"name": "a", "accelerator": "l40s", "free": 1, "pricePerAcceleratorHour": {number}}}'
    with pytest.raises(ValidationError, match="finite number"):
        PlannablePool.model_validate_json(said)
