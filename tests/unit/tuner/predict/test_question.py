"""The batch interface's fields: what is read, defaults, and one clear error for each way to get it wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.model.errors import InvalidSpec, TrimtabError, UnknownName
from tuner.serving.question import Span, closed_loop_requests, parse_line, parse_question
from tuner.serving.traffic import requests_of

LINE: dict[str, Any] = {
    "id": "a",
    "model": "llama-3.1-70b",
    "system": "h200_sxm",
    "backend": "vllm",
    "tp": 8,
    "isl": 1024,
    "osl": 256,
    "arrivals": {"closed": 32},
}


def test_a_short_line_and_its_defaults() -> None:
    question = parse_line(json.dumps(LINE))
    assert question.degrees is not None
    assert (question.degrees.tp, question.degrees.pp, question.degrees.attention_dp) == (8, 1, 1)
    assert question.degrees.moe_tp is None
    assert question.input == Span(low=1024, high=1024)
    assert question.arrivals.kind == "closed"
    assert question.requests == 320
    assert (question.replicas, question.seed, question.shared_prefix) == (1, 0, 0)


@pytest.mark.parametrize(
    ("clients", "requests"),
    [(1, 10), (64, 640), (65, 325), (819, 4095), (820, 3280), (2048, 4096), (8192, 16384)],
)
def test_requests_of_a_closed_loop(clients: int, requests: int) -> None:
    assert closed_loop_requests(clients) == requests


def test_rates_send_enough_for_a_99th_percentile() -> None:
    assert parse_question(LINE | {"arrivals": {"poisson": 2.5}}).requests == 2000
    gamma = parse_question(LINE | {"arrivals": {"gamma": 2, "cv": 3}}).arrivals
    assert (gamma.kind, gamma.rate_per_s, gamma.cv) == ("gamma", 2.0, 3.0)


def test_lengths_as_a_share_or_as_two_ends() -> None:
    assert parse_question(LINE | {"isl_range": 0.8}).input == Span(low=819, high=1024)
    assert parse_question(LINE | {"osl_range": [200, 300]}).output == Span(low=200, high=300)
    assert parse_question(LINE | {"isl": 1, "isl_range": 0.1}).input == Span(low=1, high=1)


def test_a_trace_brings_its_own_lengths() -> None:
    line = {key: value for key, value in LINE.items() if key not in ("isl", "osl")}
    question = parse_question(line | {"arrivals": {"trace": "calls.jsonl"}})
    assert (question.input, question.output, question.requests) == (None, None, None)
    kept = parse_question(LINE | {"arrivals": {"trace": "calls.jsonl"}})
    assert (kept.input, kept.output) == (None, None)
    assert kept.remarks == ("isl: the trace's own lengths count", "osl: the trace's own lengths count")
    shared = parse_question(line | {"arrivals": {"trace": "calls.jsonl"}, "prefix": 9, "osl_range": 0.5})
    assert [remark.split(":")[0] for remark in shared.remarks] == ["osl_range", "prefix"]


def test_a_trace_that_cannot_be_looked_at_is_no_file() -> None:
    question = parse_question(LINE | {"arrivals": {"trace": "x" * 4000}})
    with pytest.raises(InvalidSpec, match="no file"):
        requests_of(question)


@pytest.mark.parametrize(("arrivals", "field"), [({"poisson": 1e-300}, "poisson"), ({"gamma": 1, "cv": 1e-300}, "cv")])
def test_rates_and_spreads_that_arrival_times_cannot_hold(arrivals: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_question(LINE | {"arrivals": arrivals})
    assert caught.value.field == f"arrivals.{field}"


def test_roles() -> None:
    line = {key: value for key, value in LINE.items() if key != "tp"}
    role = {"tp": 4, "workers": 2, "max_batch": 64, "knobs": {"max_num_seqs": 8}}
    question = parse_question(line | {"disagg": {"prefill": role, "decode": {"tp": 8}}})
    assert question.degrees is None
    assert question.prefill is not None and question.decode is not None
    assert (question.prefill.workers, question.prefill.max_batch) == (2, 64)
    assert (question.decode.workers, question.decode.degrees.tp) == (1, 8)
    assert parse_question(LINE | {"disagg": {"prefill": role, "decode": role}}).remarks == (
        "tp: the roles' own degrees and workers count",
    )
    spelled = parse_question(
        line | {"disagg": {"prefill": {"tp": 1, "num_workers": 3, "batch_size": 7}, "decode": role}}
    )
    assert spelled.prefill is not None
    assert (spelled.prefill.workers, spelled.prefill.max_batch) == (3, 7)
    with pytest.raises(InvalidSpec) as caught:
        parse_question(line | {"disagg": {"prefill": role}})
    assert caught.value.field == "disagg.decode"


def test_zero_expert_degrees_are_as_absent() -> None:
    degrees = parse_question(LINE | {"moe_ep": 0, "attention_dp": 0, "moe_tp": None}).degrees
    assert degrees is not None
    assert (degrees.moe_ep, degrees.attention_dp) == (None, 1)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"tp": 0}, "tp"),
        ({"tp": 2.5}, "tp"),
        ({"tp": True}, "tp"),
        ({"tp": None}, "tp"),
        ({"tp": 10**30}, "tp"),
        ({"model": ""}, "model"),
        ({"model": "a\nb"}, "model"),
        ({"model": 7}, "model"),
        ({"system": None}, "system"),
        ({"backend": ["vllm"]}, "backend"),
        ({"isl": -1}, "isl"),
        ({"isl": 3_000_000}, "isl"),
        ({"osl": "many"}, "osl"),
        ({"isl_range": 0}, "isl_range"),
        ({"isl_range": 1.5}, "isl_range"),
        ({"isl_range": [5, 1]}, "isl_range"),
        ({"isl_range": [1, 2, 3]}, "isl_range"),
        ({"isl_range": True}, "isl_range"),
        ({"prefix": 1024}, "prefix"),
        ({"requests": 0}, "requests"),
        ({"requests": 10**9}, "requests"),
        ({"arrivals": None}, "arrivals"),
        ({"arrivals": {}}, "arrivals"),
        ({"arrivals": 5}, "arrivals"),
        ({"arrivals": {"closed": 4, "poisson": 1}}, "arrivals"),
        ({"arrivals": {"closed": 0}}, "arrivals.closed"),
        ({"arrivals": {"poisson": 0}}, "arrivals.poisson"),
        ({"arrivals": {"poisson": -1}}, "arrivals.poisson"),
        ({"arrivals": {"poisson": "5"}}, "arrivals.poisson"),
        ({"arrivals": {"poisson": 5, "cv": 2}}, "arrivals.cv"),
        ({"knobs": [1]}, "knobs"),
        ({"knobs": {"max_num_seqs": None}}, "knobs.max_num_seqs"),
        ({"knobs": {str(n): 1 for n in range(100)}}, "knobs"),
        ({"seed": -1}, "seed"),
        ({"id": [1]}, "id"),
        ({"id": "x" * 300}, "id"),
        ({"price_per_accelerator_hour": -2}, "price_per_accelerator_hour"),
        ({"power_cap_w": 0}, "power_cap_w"),
    ],
)
def test_one_error_for_each_wrong_value(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(TrimtabError) as caught:
        parse_question(LINE | changed)
    assert caught.value.field == field
    assert caught.value.as_dict()["message"]
    json.dumps(caught.value.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("name", "near"), [("iso", "isl"), ("arrival", "arrivals"), ("attention_dp_size", "attention_dp"), ("TP", "tp")]
)
def test_unknown_fields_name_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownName, match=near) as caught:
        parse_question(LINE | {name: 1})
    assert caught.value.field == name


@pytest.mark.parametrize(
    "line",
    [
        "",
        "not json",
        '{"id": 1',
        '{"tp": NaN}',
        '{"tp": Infinity}',
        '{"tp": 1, "tp": 2}',
        "[" * 100_000,
        '{"tp": ' + "9" * 5_000 + "}",
        '{"a": "' + "x" * 70_000 + '"}',
    ],
)
def test_lines_that_are_no_json(line: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_line(line)
    assert caught.value.field == "line"


@pytest.mark.parametrize("line", ["[]", "7", '"text"', "null"])
def test_lines_that_are_no_object(line: str) -> None:
    with pytest.raises(InvalidSpec, match="must be an object"):
        parse_line(line)
