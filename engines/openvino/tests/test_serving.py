"""The whole server with a real engine: answers, streams, usage, sampling, stop conditions, figures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from harness import PACKAGE_ROOT, Server, stream_text, wait_until

from trimtab_engine.makemodel import ModelShape, write_model

PROMPT = list(range(5, 45))


def test_a_completion_and_its_stream_say_the_same(server: Server) -> None:
    whole = server.complete(prompt="hello world", max_tokens=12)
    events = server.stream(prompt="hello world", max_tokens=12, stream_options={"include_usage": True}).rest()
    assert events[-1] == "[DONE]"
    assert events[-2]["usage"] == whole["usage"]
    assert whole["usage"]["completion_tokens"] == 12
    assert whole["usage"]["total_tokens"] == 12 + whole["usage"]["prompt_tokens"]
    assert stream_text(events) == whole["choices"][0]["text"]
    assert [e["choices"][0]["finish_reason"] for e in events[:-2]] == [None] * 11 + ["length"]
    assert len({e["id"] for e in events[:-1]}) == 1


def test_a_stream_is_chunked_event_stream_and_one_event_per_token(server: Server) -> None:
    stream = server.stream(prompt=PROMPT, max_tokens=5)
    assert stream.response.status == 200
    assert stream.response.getheader("content-type").startswith("text/event-stream")
    assert len(stream.rest()) == 6


def test_chat_whole_and_streamed(server: Server) -> None:
    body = {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]}
    status, whole = server.post("/v1/chat/completions", {**body, "max_tokens": 8, "temperature": 0, "ignore_eos": True})
    assert status == 200
    assert whole["choices"][0]["message"]["role"] == "assistant"
    assert whole["choices"][0]["finish_reason"] == "length"
    events = server.stream("/v1/chat/completions", **body, max_tokens=8).rest()
    assert stream_text(events) == whole["choices"][0]["message"]["content"]


def test_a_chat_without_a_length_runs_to_the_end_of_the_context(model: Path) -> None:
    with Server(model, "--max-model-len", "64") as small:
        body = {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "ignore_eos": True}
        _, whole = small.post("/v1/chat/completions", body)
        assert whole["usage"]["total_tokens"] == 64
        assert whole["choices"][0]["finish_reason"] == "length"


def test_sixteen_at_once_all_finish_and_the_figures_add_up(server: Server) -> None:
    before = server.metrics()
    streams = [server.stream(prompt=[5 + i] * (20 + i), max_tokens=20 + i) for i in range(16)]
    counts = [len(stream.rest()) - 1 for stream in streams]
    assert counts == [20 + i for i in range(16)]
    after = server.metrics()
    change = {key: after[key] - before[key] for key in after}
    tokens = sum(counts)
    assert change["generation_tokens_total"] == tokens
    assert change["prompt_tokens_total"] == tokens  # by construction above
    assert change['requests_total{outcome="completed"}'] == 16
    assert change['request_finish_total{reason="length"}'] == 16
    assert change["time_to_first_token_seconds_count"] == 16
    assert change["request_latency_seconds_count"] == 16
    assert change["time_per_output_token_seconds_count"] == tokens - 16
    assert change['time_to_first_token_seconds_bucket{le="+Inf"}'] == 16
    assert 36 <= change["steps_total"] < tokens  # batched: far fewer steps than tokens
    assert after["requests_running"] == after["requests_waiting"] == after["kv_cache_usage_ratio"] == 0
    assert after["up"] == 1


def test_greedy_answers_repeat(server: Server) -> None:
    """Alone in the batch: in company the order of additions differs, and with it the last bits."""
    answers = [server.complete(prompt=PROMPT, max_tokens=10)["choices"][0]["text"] for _ in range(3)]
    assert len(set(answers)) == 1


def test_a_seed_decides_the_sample(server: Server) -> None:
    def sample(seed: int | None) -> str:
        return server.complete(prompt=PROMPT, max_tokens=16, temperature=1, seed=seed)["choices"][0]["text"]

    assert sample(1) == sample(1)
    assert len({sample(1), sample(2), sample(3)}) == 3
    assert sample(None) != sample(None)


def test_top_k_of_one_is_greedy(server: Server) -> None:
    greedy = server.complete(prompt=PROMPT, max_tokens=8)["choices"][0]["text"]
    top = server.complete(prompt=PROMPT, max_tokens=8, temperature=2, top_k=1)["choices"][0]["text"]
    assert top == greedy


def test_a_stop_string_ends_before_it_and_counts_what_was_generated(server: Server) -> None:
    whole = server.complete(prompt="hello world", max_tokens=24, return_token_ids=True)
    text = whole["choices"][0]["text"]
    stop = text[len(text) // 2 :][:4]
    cut = text[: text.index(stop)]
    stopped = server.complete(prompt="hello world", max_tokens=24, stop=[stop])
    assert stopped["choices"][0] == {**stopped["choices"][0], "text": cut, "finish_reason": "stop"}
    assert stopped["usage"]["completion_tokens"] < 24
    events = server.stream(prompt="hello world", max_tokens=24, stop=[stop]).rest()
    assert stream_text(events) == cut
    assert events[-2]["choices"][0]["finish_reason"] == "stop"


def test_a_stop_token_ends_after_it(server: Server) -> None:
    ids = server.complete(prompt=PROMPT, max_tokens=12, return_token_ids=True)["choices"][0]["token_ids"]
    assert len(ids) == 12
    stop = ids[5]
    choice = server.complete(prompt=PROMPT, max_tokens=12, return_token_ids=True, stop_token_ids=[stop])["choices"][0]
    assert choice["token_ids"] == ids[: ids.index(stop) + 1]
    assert choice["finish_reason"] == "stop"


def test_the_end_token_ends_unless_ignored(tmp_path: Path) -> None:
    """Of 300 tokens drawn almost evenly, one is the end: two of three seeds meet it within 300 draws."""
    path = tmp_path / "few-tokens.gguf"
    write_model(path, ModelShape(hidden=64, layers=1, vocab=300))
    with Server(path) as server:
        for seed in range(8):
            body = {"prompt": PROMPT, "max_tokens": 300, "temperature": 50, "seed": seed}
            ended = server.complete(**body, ignore_eos=False)
            if ended["choices"][0]["finish_reason"] == "stop":
                break
        assert ended["usage"]["completion_tokens"] < 300
        ignored = server.complete(**body, ignore_eos=True)
        assert ignored["choices"][0]["finish_reason"] == "length"
        assert ignored["usage"]["completion_tokens"] == 300


def test_logprobs_are_those_of_the_chosen_tokens(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0, "logprobs": True}
    _, chat = server.post("/v1/chat/completions", {**body, "ignore_eos": True})
    entries = chat["choices"][0]["logprobs"]["content"]
    assert len(entries) == 4 and all(entry["logprob"] < 0 for entry in entries)
    choice = server.complete(prompt=PROMPT, max_tokens=4, logprobs=0, return_token_ids=True)["choices"][0]
    assert len(choice["logprobs"]["token_logprobs"]) == len(choice["token_ids"]) == 4
    events = server.stream(prompt=PROMPT, max_tokens=4, logprobs=0).rest()
    streamed = [e["choices"][0]["logprobs"]["token_logprobs"][0] for e in events[:-1]]
    assert streamed == pytest.approx(choice["logprobs"]["token_logprobs"], abs=1e-4)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": [4096]}, "prompt", "invalid_value"),
        ({"prompt": [-1]}, "prompt", "invalid_value"),
        ({"prompt": [5] * 4096}, "prompt", "context_length_exceeded"),
        ({"prompt": "hello " * 4000}, "prompt", "context_length_exceeded"),
        ({"prompt": [5] * 4000, "max_tokens": 97}, "max_tokens", "context_length_exceeded"),
        ({"prompt": "hi", "max_tokens": 4096}, "max_tokens", "context_length_exceeded"),
        ({"prompt": "hi", "stream": True, "max_tokens": 4096}, "max_tokens", "context_length_exceeded"),
    ],
)
def test_what_does_not_fit_the_model_is_400(server: Server, body: dict[str, Any], param: str, code: str) -> None:
    status, error = server.error(**body)
    assert (status, error["param"], error["code"]) == (400, param, code)


def test_a_long_text_is_counted_whole(server: Server) -> None:
    """The tokeniser alone would cut it at 8,192 tokens and say nothing."""
    status, error = server.error(prompt="hello world " * 3000)
    assert status == 400
    assert int(error["message"].split()[1]) > 12_000


def test_a_request_at_the_limits_is_served(server: Server) -> None:
    answer = server.complete(prompt=[5] * 4090, max_tokens=6)
    assert answer["usage"] == {"prompt_tokens": 4090, "completion_tokens": 6, "total_tokens": 4096}


def test_routes(server: Server) -> None:
    status, models = server.post("/v1/models", None)
    assert (status, models["error"]["code"]) == (405, "method_not_allowed")
    status, _, data = server.request("GET", "/v1/models")
    assert status == 200
    entry = json.loads(data)["data"][0]
    assert (entry["id"], entry["max_model_len"]) == ("tiny", 4096)
    assert server.request("GET", "/v1/models/tiny")[0] == 200
    assert server.request("GET", "/v1/models/other")[0] == 404
    assert server.request("GET", "/nothing")[0] == 404
    assert server.request("GET", "/v1/completions")[0] == 405
    assert server.request("HEAD", "/health")[0] == 200
    assert server.request("GET", "/health/live")[0] == 200


def test_every_metric_has_help_and_type(server: Server) -> None:
    status, headers, data = server.request("GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = data.decode().splitlines()
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    helped = {line.split()[2] for line in lines if line.startswith("# HELP")}
    assert typed == helped
    for line in lines:
        if not line.startswith("#"):
            name = line.split("{")[0]
            base = name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
            assert name in typed or base in typed
            assert name.startswith("trimtab_engine_")


def test_a_client_that_hangs_up_frees_its_slot(server: Server) -> None:
    before = server.metrics()['requests_total{outcome="cancelled"}']
    stream = server.stream(prompt=[5] * 500, max_tokens=3000)
    stream.next()
    running = server.metrics()
    assert running["requests_running"] == 1
    assert running["kv_cache_usage_ratio"] > 0
    stream.close()
    wait_until(lambda: server.metrics()['requests_total{outcome="cancelled"}'] == before + 1, "cancelled")
    wait_until(lambda: server.metrics()["kv_cache_usage_ratio"] == 0, "KV blocks free")
    steps = server.metrics()["steps_total"]
    server.complete(prompt="hi", max_tokens=2)
    assert server.metrics()["steps_total"] <= steps + 4  # nothing of the old request is left in the engine


def test_a_client_that_hangs_up_while_waiting_for_a_whole_answer_counts_too(server: Server) -> None:
    before = server.metrics()['requests_total{outcome="cancelled"}']
    stream = server.stream(prompt=[5] * 50, max_tokens=3000, stream=False)
    wait_until(lambda: server.metrics()["requests_running"] == 1, "running")
    stream.close()
    wait_until(lambda: server.metrics()['requests_total{outcome="cancelled"}'] == before + 1, "cancelled")


def test_hanging_up_and_asking_at_random_leaves_nothing_behind(server: Server) -> None:
    def one(number: int) -> None:
        stream = server.stream(prompt=[5 + number] * 30, max_tokens=40)
        for _ in range(number % 7):
            stream.next()
        if number % 3:
            stream.close()
        else:
            stream.rest()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: server.metrics()["requests_running"] + server.metrics()["requests_waiting"] == 0, "idle")
    wait_until(lambda: server.metrics()["kv_cache_usage_ratio"] == 0, "KV blocks free")
    answer = server.complete(prompt=PROMPT, max_tokens=3)
    assert answer["usage"]["completion_tokens"] == 3


def test_the_api_key_guards_v1_only(model: Path, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("secret-1\n")
    with Server(model, "--api-key-file", str(key_file)) as guarded:
        assert "secret-1" not in json.dumps(guarded.config)
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret-1"}):
            status, found, data = guarded.request("POST", "/v1/completions", {"prompt": "x"}, headers)
            assert status == 401 and found["www-authenticate"] == "Bearer"
            assert json.loads(data)["error"]["code"] == "invalid_api_key"
        assert guarded.request("GET", "/v1/models")[0] == 401
        assert guarded.request("GET", "/health")[0] == guarded.request("GET", "/metrics")[0] == 200
        good = {"authorization": "Bearer secret-1"}
        assert guarded.request("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1}, good)[0] == 200
        assert guarded.metrics()['requests_rejected_total{reason="unauthorized"}'] == 4
        assert "secret-1" not in "\n".join(guarded.log)


def test_the_api_key_from_the_environment(model: Path) -> None:
    with Server(model, env={"TRIMTAB_API_KEY": "secret-2"}) as guarded:
        assert guarded.request("GET", "/v1/models")[0] == 401
        assert guarded.request("GET", "/v1/models", headers={"authorization": "bearer secret-2"})[0] == 200


def test_a_full_queue_answers_429(model: Path) -> None:
    with Server(model, "--max-waiting", "2", "--no-dynamic-split-fuse", "--max-num-seqs", "1") as narrow:
        streams = [narrow.stream(prompt=PROMPT, max_tokens=4000)]
        streams[0].next()
        for waiting in (1, 2):
            streams.append(narrow.stream(prompt=PROMPT, max_tokens=4))
            wait_until(lambda n=waiting: narrow.metrics()["requests_waiting"] == n, "waiting")
        status, headers, data = narrow.request("POST", "/v1/completions", {"prompt": "x"})
        assert status == 429
        assert headers["retry-after"] == "1"
        assert json.loads(data)["error"]["code"] == "queue_full"
        assert narrow.metrics()['requests_rejected_total{reason="queue_full"}'] == 1
        streams[0].close()
        for stream in streams[1:]:
            assert len(stream.rest()) == 5


def test_hanging_up_with_a_full_kv_cache_does_not_harm_those_who_wait(model: Path) -> None:
    with Server(model, "--num-kv-blocks", "40") as small:
        large = small.stream(prompt=[5] * 1000, max_tokens=200)
        large.next()
        others = [small.stream(prompt=[6 + i] * 600, max_tokens=30) for i in range(3)]
        wait_until(lambda: small.metrics()["requests_waiting"] >= 2, "no room")
        large.close()
        for stream in others:
            events = stream.rest()
            assert events[-1] == "[DONE]" and len(events) == 31


def test_scheduler_flags_reach_the_engine(model: Path) -> None:
    """One sequence at a time needs as many steps as there are tokens; batched prompts need fewer."""
    flags = ["--no-dynamic-split-fuse", "--max-num-seqs", "1", "--num-kv-blocks", "64", "--kv-cache-precision", "u8"]
    with Server(model, *flags) as serial:
        assert serial.config["serve"]["engine"]["max_num_seqs"] == 1
        start = serial.metrics()["steps_total"]
        for stream in [serial.stream(prompt=PROMPT, max_tokens=10) for _ in range(4)]:
            stream.rest()
        assert serial.metrics()["steps_total"] - start >= 40
        status, error = serial.error(prompt=[5] * 2000, max_tokens=100)
        assert (status, error["code"]) == (400, "kv_cache_too_small")


def test_prefix_caching_saves_steps(model: Path) -> None:
    with Server(model, "--enable-prefix-caching", "--max-num-batched-tokens", "64") as cached:

        def steps() -> float:
            before = cached.metrics()["steps_total"]
            cached.complete(prompt=[9] * 640, max_tokens=2)
            return cached.metrics()["steps_total"] - before

        first, second = steps(), steps()
        assert first >= 10
        assert second <= 3


def test_a_kv_cache_that_fills_up_fails_the_request_and_says_so(model: Path) -> None:
    """With eviction the capacity cannot be checked beforehand; the engine gives up while running."""
    with Server(model, "--num-kv-blocks", "6", "--use-cache-eviction") as tiny:
        status, error = tiny.error(prompt=[5] * 800, max_tokens=10)
        assert (status, error["code"]) == (503, "kv_cache_too_small")
        assert tiny.metrics()['requests_total{outcome="failed"}'] == 1
        assert tiny.complete(prompt="hi", max_tokens=2)["usage"]["completion_tokens"] == 2


def test_an_ir_folder_is_served_like_the_file_it_was_made_from(server: Server, model: Path, tmp_path: Path) -> None:
    shutil.copy(model, tmp_path / "model.gguf")
    export = (
        "import sys; from trimtab_engine import backend; "
        "backend.genai.LLMPipeline(sys.argv[1], 'CPU', INFERENCE_PRECISION_HINT='f32', enable_save_ov_model=True)"
    )
    subprocess.run([sys.executable, "-c", export, tmp_path / "model.gguf"], cwd=PACKAGE_ROOT, check=True)
    (tmp_path / "model.gguf").unlink()
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 512}')
    with Server(tmp_path) as folder:
        body = {"prompt": "hello world", "max_tokens": 12}
        assert folder.config["serve"]["engine"]["model_format"] == "ir"
        assert folder.complete(**body)["choices"][0]["text"] == server.complete(**body)["choices"][0]["text"]
        status, error = folder.error(prompt=[5] * 512)
        assert (status, error["code"]) == (400, "context_length_exceeded")
