"""The predictor from question to answer: the contract, units, determinism, and no network."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlplane.model.errors import InvalidSpec, TrimtabError, UnknownName, Unsupported
from controlplane.model.plans import Provenance
from tuner.serving import predict
from tuner.serving.answer import _TIERS, table_failures
from tuner.serving.predict import Predictor
from tuner.serving.question import parse_question
from tuner.serving.step import ladder
from tuner.serving.step.store import TableStore

# An accelerator without measured tables: answered by the roofline, with or without the optional package.
LINE: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "system": "mi300x",
    "backend": "vllm",
    "tp": 1,
    "isl": 512,
    "osl": 64,
    "arrivals": {"closed": 8},
}
CONTRACT = {
    "ttft_ms", "tpot_ms", "e2e_ms", "tokens_per_s_per_gpu", "kv_fraction_peak", "power_w", "tier", "provenance",
    "warnings",
}  # fmt: skip


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(store=TableStore(tmp_path_factory.mktemp("tables")))


def _answer(predictor: Predictor, *, per_request: bool = False, **changed: Any) -> dict[str, Any]:
    line = {key: value for key, value in (LINE | changed).items() if value is not None}
    return predictor.answer(parse_question(line), per_request=per_request)


def test_the_contract(predictor: Predictor) -> None:
    answer = _answer(predictor)
    assert set(answer) >= CONTRACT
    for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
        found = answer[metric]
        bounds = [f"p{q}_{end}" for q in (90, 95, 99) for end in ("lo", "hi")]
        assert list(found) == ["mean", "p50", "p90", "p95", "p99", "lo", "hi", *bounds]
        assert found["p50"] <= found["p90"] <= found["p95"] <= found["p99"]
        assert found["lo"] <= found["mean"] <= found["hi"]
    assert answer["tier"] in _TIERS
    assert answer["provenance"]["tier"] == answer["tier"]
    assert 0 < answer["kv_fraction_peak"] < 1
    assert answer["requests"] == 80
    json.dumps(answer, allow_nan=False)


def test_throughput_and_latency_agree(predictor: Predictor) -> None:
    """Little's law: clients = rate x time in system, but for the ends of the run."""
    answer = _answer(predictor, requests=2000)
    assert answer["requests_per_s"] * answer["e2e_ms"]["mean"] / 1e3 == pytest.approx(8, rel=0.02)
    assert answer["tokens_per_s"] == pytest.approx(answer["requests_per_s"] * 64, rel=1e-4)
    assert answer["tokens_per_s_per_gpu"] == answer["tokens_per_s"]


def test_per_request_arrays_are_what_was_summed_up(predictor: Predictor) -> None:
    answer = _answer(predictor, per_request=True)
    for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
        summed = answer[metric]
        listed = answer["per_request"][metric]
        assert len(listed) == answer["requests"]
        assert np.mean(listed) == pytest.approx(summed["mean"], rel=1e-4)
        assert np.percentile(listed, 90) == pytest.approx(summed["p90"], rel=1e-4)


def test_requests_beyond_the_context_are_warned_of(predictor: Predictor) -> None:
    said = _answer(predictor, isl=131_072, osl=64, arrivals={"closed": 1}, requests=2)["warnings"]
    assert any("131136" in line and "131072" in line and "2 of 2" in line for line in said)
    assert not any("reads" in line for line in _answer(predictor)["warnings"])


def test_outputs_of_one_token_have_no_tpot(predictor: Predictor) -> None:
    answer = _answer(predictor, osl=1)
    assert answer["tpot_ms"]["mean"] is None
    assert "outputs of one token have no TPOT" in answer["warnings"]


def test_tables_that_fail_are_warned_of_and_shapes_that_were_not_measured_are_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(_query: Any) -> Any:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(ladder.aiconfigurator, "require", lambda: None)
    monkeypatch.setattr(ladder.aiconfigurator, "installed", lambda: True)
    monkeypatch.setattr(ladder.aiconfigurator, "shipped_models", frozenset)
    monkeypatch.setattr(ladder.aiconfigurator, "compile_query", broken)
    answer = _answer(Predictor(store=TableStore(tmp_path)), system="h100")
    assert answer["tier"] == "roofline"
    (said,) = [line for line in answer["warnings"] if "tables failed" in line]
    assert "ZeroDivisionError: division by zero" in said and "times are from" in said
    unmeasured = Provenance(tier="roofline", source="roofline", notes=["vllm 1 SILICON: table-miss: no such shape"])
    assert table_failures([unmeasured]) == []


def test_the_same_engine_is_tabulated_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    real = predict.step_table

    def counted(case: Any, *, store: Any) -> Any:
        asked.append(case)
        return real(case, store=store)

    monkeypatch.setattr(predict, "step_table", counted)
    fresh = Predictor(store=TableStore(tmp_path))
    for clients in (1, 2, 4):
        _answer(fresh, arrivals={"closed": clients})
    assert len(asked) == 1
    _answer(fresh, kv_quant="fp8")
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("changed", "field", "near"),
    [
        ({"model": "llama-3.1-8"}, "model", "llama-3.1-8b"),
        ({"system": "mi300"}, "system", "mi300x"),
        ({"system": "h100_sxn"}, "system", "h100"),
        ({"backend": "vlm"}, "backend", "vllm"),
        ({"router": "round_robin"}, "router", "round-robin"),
        ({"knobs": {"max_num_seq": 4}}, "knobs.max_num_seq", "max_num_seqs"),
        ({"gemm_quant": "fp9"}, "gemm_quant", "fp8"),
    ],
)
def test_unknown_names_name_the_nearest(predictor: Predictor, changed: dict[str, Any], field: str, near: str) -> None:
    with pytest.raises(UnknownName) as caught:
        _answer(predictor, **changed)
    assert caught.value.field == field
    assert near in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"tp": 7}, "tp"),
        ({"model": "phi-4", "tp": 4}, "tp"),
        ({"moe_ep": 8}, "moe_ep"),
        ({"tp": None, "disagg": {"prefill": {"tp": 1}, "decode": {"tp": 1}}, "backend": "openvino"}, "disagg"),
        ({"power_cap_w": 1.0}, "power_cap_w"),
        ({"nic": "carrier-pigeon"}, "nic"),
        ({"gemm_quant": "nvfp4"}, "gemm_quant"),
    ],
)
def test_what_cannot_be_is_an_error_with_its_field(predictor: Predictor, changed: dict[str, Any], field: str) -> None:
    with pytest.raises(TrimtabError) as caught:
        _answer(predictor, **changed)
    assert caught.value.field == field


def test_engine_settings_matter(predictor: Predictor) -> None:
    free, held = (
        _answer(predictor, arrivals={"closed": 32}),
        _answer(predictor, arrivals={"closed": 32}, knobs={"max_num_seqs": 4}),
    )
    assert held["ttft_ms"]["p50"] > 3 * free["ttft_ms"]["p50"]
    tight = _answer(predictor, arrivals={"closed": 32}, knobs={"kv_blocks": 150})
    assert tight["kv_fraction_peak"] > 0.9
    assert tight["preemptions"] > 0 or tight["ttft_ms"]["p90"] > free["ttft_ms"]["p90"]
    assert "enforceEager: not modelled" in _answer(predictor, knobs={"enforce_eager": True})["warnings"]


def test_requests_that_fit_nowhere_are_said_not_hidden(predictor: Predictor) -> None:
    answer = _answer(predictor, knobs={"kv_blocks": 4})
    assert answer["ttft_ms"]["mean"] is None
    assert any("refused" in warning for warning in answer["warnings"])


def test_overload_is_said(predictor: Predictor) -> None:
    assert any("overload" in warning for warning in _answer(predictor, arrivals={"poisson": 500})["warnings"])
    assert not any("overload" in warning for warning in _answer(predictor, arrivals={"poisson": 1})["warnings"])


def test_shared_prompt_heads_are_cached(predictor: Predictor) -> None:
    cold, warm = _answer(predictor, isl=4096), _answer(predictor, isl=4096, prefix=4000)
    assert warm["ttft_ms"]["p50"] < 0.5 * cold["ttft_ms"]["p50"]
    off = _answer(predictor, isl=4096, prefix=4000, knobs={"prefix_caching": False})
    assert off["ttft_ms"]["p50"] == cold["ttft_ms"]["p50"]


def test_replicas_share_the_load(predictor: Predictor) -> None:
    one = _answer(predictor, arrivals={"poisson": 20})
    four = _answer(predictor, arrivals={"poisson": 20}, replicas=4, router="least-loaded")
    assert four["accelerators"] == 4
    assert four["tpot_ms"]["mean"] < one["tpot_ms"]["mean"]


def test_separate_roles(predictor: Predictor) -> None:
    roles = {"prefill": {"tp": 1, "workers": 2}, "decode": {"tp": 2, "max_batch": 16}}
    answer = _answer(predictor, tp=None, disagg=roles)
    assert answer["accelerators"] == 4
    assert "prefill" in answer["provenance"]["source"] and "decode" in answer["provenance"]["source"]
    together = _answer(predictor, tp=2)
    assert answer["tpot_ms"]["p99"] <= 1.05 * together["tpot_ms"]["p99"]


def test_a_trace_is_replayed_as_it_is(predictor: Predictor, tmp_path: Path) -> None:
    rows = [{"arrival_s": 0.5 * n, "isl": 100 + n, "osl": 10} for n in range(120)]
    path = tmp_path / "calls.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    line = {"arrivals": {"trace": str(path)}, "isl": None, "osl": None}
    answer = _answer(predictor, per_request=True, **line)
    assert answer["requests"] == 120
    assert answer["per_request"]["arrival_s"][:3] == [0.0, 0.5, 1.0]
    assert _answer(predictor, **line, requests=7)["requests"] == 7
    beside = Predictor(store=TableStore(tmp_path), traces=tmp_path)
    assert _answer(beside, **line | {"arrivals": {"trace": "calls.jsonl"}})["requests"] == 120
    with pytest.raises(InvalidSpec) as caught:
        _answer(predictor, **line | {"arrivals": {"trace": "absent.jsonl"}})
    assert (caught.value.field, caught.value.value) == ("arrivals.trace", "absent.jsonl")


def test_energy_and_cost(predictor: Predictor) -> None:
    priced = _answer(predictor, price_per_accelerator_hour=3.6, currency="EUR")
    assert priced["cost_per_million_output_tokens"] == pytest.approx(
        3.6 / 3600 / priced["tokens_per_s"] * 1e6, rel=1e-3
    )
    assert priced["currency"] == "EUR"
    assert _answer(predictor)["cost_per_million_output_tokens"] is None, "a price nobody gave is unknown"
    assert 100 < priced["power_w"] < 750
    assert priced["joules_per_output_token"] == pytest.approx(priced["power_w"] / priced["tokens_per_s"], rel=0.01)
    capped = _answer(predictor, power_cap_w=400.0)
    assert capped["power_w"] <= 400
    assert capped["ttft_ms"]["mean"] > priced["ttft_ms"]["mean"]


def test_raw_predictions_have_no_interval(tmp_path: Path) -> None:
    answer = _answer(Predictor(raw=True, store=TableStore(tmp_path)))
    assert answer["ttft_ms"]["lo"] is None and answer["ttft_ms"]["hi"] is None


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the predictor opened a connection")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    fresh = Predictor(store=TableStore(tmp_path))
    _answer(fresh)
    _answer(fresh, model="llama-3.1-70b", system="h200", tp=8)
    for model in ("someone/private-model", "./local-folder"):
        with pytest.raises((UnknownName, Unsupported, InvalidSpec)):
            _answer(fresh, model=model, system="h200")


def test_equal_in_every_process_and_hash_seed(tmp_path: Path) -> None:
    lines = [
        {"id": 1, **LINE, "isl_range": 0.5, "osl_range": 0.8},
        {"id": 2, **LINE, "arrivals": {"gamma": 5, "cv": 2}, "replicas": 3, "knobs": {"kv_blocks": 200}},
        {"id": 3, **LINE, "model": "nothing"},
    ]
    program = (
        "import io,sys\nfrom tuner.serving import batch\nfrom tuner.serving.predict import Predictor\n"
        "batch.run(sys.stdin.buffer, sys.stdout, Predictor(), per_request=True)"
    )
    text = "\n".join(json.dumps(line) for line in lines).encode()
    found = []
    for seed in ("0", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TRIMTAB_CACHE_DIR": str(tmp_path / seed)}
        done = subprocess.run(
            [sys.executable, "-c", program], input=text, capture_output=True, env=environment, check=True
        )
        found.append(done.stdout)
    assert found[0] == found[1]
    assert found[0].count(b"\n") == 3


def test_a_release_without_tables_is_said_to_be_answered_by_another(predictor: Predictor) -> None:
    said = [text for text in _answer(predictor, backend_version="9.9")["warnings"] if "9.9" in text]
    assert len(said) == 1 and "roofline" in said[0]
    assert not [text for text in _answer(predictor, backend_version="current")["warnings"] if "measured" in text]
