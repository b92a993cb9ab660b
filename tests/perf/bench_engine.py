"""What the HTTP layer of the embedded engine costs: the bare pipeline against the server, interleaved.

Three processes stay alive for the whole run and take turns: the bare pipeline (`engine_bare`), the server, and its
client (`engine_client`). All share this machine's cores, the client too, so the client's CPU is counted apart: the
figure compares tokens per second of the time that the client left to the others. The raw loss is printed beside it,
and so is what both server processes use more CPU than the bare pipeline, which other load on the machine moves least.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from tests.perf.report import Emit, from_samples

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "engines" / "openvino"
ROUNDS = 7
CONCURRENCY = 16
PROMPT_TOKENS = 128
OUTPUT_TOKENS = 64
REQUESTS = 48
FIRST_TOKEN_REQUESTS = 20
VOCAB = 4096


class Process:
    """A child that says `ready` and then answers a JSON line with a JSON line."""

    def __init__(self, stack: ExitStack, argv: list[str], env: dict[str, str]) -> None:
        self._process = stack.enter_context(
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        )
        stack.callback(self._process.terminate)
        self._read()

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        stdin: IO[str] = self._process.stdin  # type: ignore[assignment]
        stdin.write(json.dumps(job) + "\n")
        stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def cpu_s(pid: int) -> float:
    """CPU seconds of one process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def child_of(pid: int) -> int:
    """The engine process of a server."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def start_server(
    stack: ExitStack, python: str, env: dict[str, str], model: Path, flags: Sequence[str] = ()
) -> tuple[int, int, str]:
    """Pid, port and engine options (JSON) of a server that is ready."""
    argv = [python, "-m", "trimtab_engine.cli", "serve", "--model", str(model), "--port", "0", *flags]
    server = stack.enter_context(
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    )
    stack.callback(server.terminate)
    options = json.dumps(json.loads(server.stdout.readline())["serve"]["engine"])  # type: ignore[union-attr]
    listening = server.stderr.readline()  # type: ignore[union-attr]
    port = int(listening.rsplit(":", 1)[1])
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return server.pid, port, options
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the server did not become ready in 60 s")


def job(seed: int, requests: int, concurrency: int, max_tokens: int) -> dict[str, Any]:
    """The same prompts for both arms of a round."""
    chooser = random.Random(seed)
    prompts = [[chooser.randrange(3, VOCAB) for _ in range(PROMPT_TOKENS)] for _ in range(requests)]
    return {"prompts": prompts, "concurrency": concurrency, "max_tokens": max_tokens}


def run(emit: Emit) -> None:
    """Emit the three figures of issue 3, and for the record the raw loss, CPU overhead and both throughputs."""
    venv = subprocess.run([ENGINE / "make-venv.sh"], check=True, stdout=subprocess.PIPE, text=True)
    python = venv.stdout.strip()
    env = {**os.environ, "PYTHONPATH": f"{ENGINE}"}
    env.pop("TRIMTAB_API_KEY", None)
    samples: dict[str, list[float]] = {}
    cores = len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        model = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model.gguf"
        subprocess.run(
            [python, "-m", "trimtab_engine.cli", "make-model", model], check=True, env=env, stdout=sys.stderr
        )
        pid, port, options = start_server(stack, python, env, model)
        bare = Process(stack, [python, str(ROOT / "tests/perf/engine_bare.py"), options], env)
        client = Process(stack, [sys.executable, str(ROOT / "tests/perf/engine_client.py"), str(port)], env)
        for number in range(-1, ROUNDS):
            found = one_round(number, pid, bare, client, cores)
            if number >= 0:  # the round before is the warm-up of all processes
                for key, value in found.items():
                    samples.setdefault(key, []).append(value)
                sys.stderr.write(f"round {number}: { {k: round(v, 2) for k, v in found.items()} }\n")
    bench = "engine"
    emit(from_samples(bench, "throughput_loss_pct", samples["loss_pct"], "%", 10, "lower"))
    emit(from_samples(bench, "first_token_overhead_ms", samples["ttft_overhead_ms"], "ms", 5, "lower"))
    emit(from_samples(bench, "server_cpu_us_per_token", samples["server_cpu_us"], "us", None, "lower"))
    emit(from_samples(bench, "cpu_overhead_pct", samples["cpu_overhead_pct"], "%", None, "lower"))
    emit(from_samples(bench, "throughput_loss_raw_pct", samples["loss_raw_pct"], "%", None, "lower"))
    emit(from_samples(bench, "bare_tokens_per_s", samples["bare_tokens_per_s"], "tokens/s", None, "higher"))
    emit(from_samples(bench, "http_tokens_per_s", samples["http_tokens_per_s"], "tokens/s", None, "higher"))
    emit(from_samples(bench, "client_cpu_us_per_token", samples["client_cpu_us"], "us", None, "lower"))


def one_round(number: int, pid: int, bare: Process, client: Process, cores: int) -> dict[str, float]:
    """Both arms of both measurements; which arm goes first alternates."""
    load = job(number, REQUESTS, CONCURRENCY, OUTPUT_TOKENS)
    results: dict[str, dict[str, Any]] = {}
    for arm in ("bare", "http") if number % 2 else ("http", "bare"):
        process = bare if arm == "bare" else client
        before_s, engine_before_s = cpu_s(pid), cpu_s(child_of(pid))
        results[arm] = process.ask(load)
        results[arm]["server_cpu_s"] = cpu_s(pid) - before_s
        results[arm]["engine_cpu_s"] = cpu_s(child_of(pid)) - engine_before_s
    b, h = results["bare"], results["http"]
    expected = REQUESTS * OUTPUT_TOKENS
    if b["tokens"] != expected or h["tokens"] != expected:
        raise RuntimeError(f"tokens: bare {b['tokens']}, http {h['tokens']}, expected {expected}")
    bare_rate = expected / b["wall_s"]
    http_rate = expected / h["wall_s"]
    apart_rate = expected / (h["wall_s"] - h["cpu_s"] / cores)
    bare_s, http_s = first_tokens(number, bare, client)
    return {
        "bare_tokens_per_s": bare_rate,
        "http_tokens_per_s": http_rate,
        "loss_raw_pct": 100 * (1 - http_rate / bare_rate),
        "loss_pct": 100 * (1 - apart_rate / bare_rate),
        "ttft_overhead_ms": 1000 * (http_s - bare_s),
        "bare_ttft_ms": 1000 * bare_s,
        "server_cpu_us": 1e6 * h["server_cpu_s"] / expected,
        "cpu_overhead_pct": 100 * ((h["server_cpu_s"] + h["engine_cpu_s"]) / b["cpu_s"] - 1),
        "client_cpu_us": 1e6 * h["cpu_s"] / expected,
    }


def first_tokens(number: int, bare: Process, client: Process) -> tuple[float, float]:
    """Median seconds to the first token of both arms, one request at a time and the arms in turn."""
    found: tuple[list[float], list[float]] = ([], [])
    for request in range(FIRST_TOKEN_REQUESTS):
        single = job(1000 * (number + 2) + request, 1, 1, 2)
        for arm, process in enumerate((bare, client)):
            found[arm].extend(process.ask(single)["ttft_s"])
    return statistics.median(found[0]), statistics.median(found[1])
