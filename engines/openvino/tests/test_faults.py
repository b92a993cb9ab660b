"""Signals, crashes and load failures of a real server: nothing lost that could be kept, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from harness import PACKAGE_ROOT, Server, alive, raw, wait_until

PROMPT = list(range(5, 45))
REQUEST = b'{"prompt": "hi", "max_tokens": 2}'
POST = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(REQUEST), REQUEST)


def test_sigterm_under_load_loses_nothing_and_refuses_the_late(model: Path) -> None:
    with Server(model, "--drain-grace", "0") as server:
        streams = [server.stream(prompt=PROMPT, max_tokens=400 + i) for i in range(8)]
        for stream in streams:
            stream.next()
        child = server.child_pid
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: server.health() == 503, "draining")
        status, headers, data = server.request("POST", "/v1/completions", {"prompt": "late"})
        assert status == 503
        assert headers["connection"] == "close" and headers["retry-after"] == "1"
        assert json.loads(data)["error"]["code"] == "draining"
        for number, stream in enumerate(streams):
            events = stream.rest()
            assert events[-1] == "[DONE]"
            assert len(events) == 400 + number  # the first was read above, [DONE] is one
        assert server.wait_exit() == 0
        assert not alive(child)


def test_in_the_grace_period_open_connections_are_served_and_asked_to_close(model: Path) -> None:
    with Server(model, "--drain-grace", "30") as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(POST)
            first = connection.recv(65536)
            assert first.startswith(b"HTTP/1.1 200") and b"connection: close" not in first
            server.send_signal(signal.SIGTERM)
            wait_until(lambda: server.health() == 503, "draining")
            connection.sendall(POST)
            second = b""
            while chunk := connection.recv(65536):
                second += chunk
            assert second.startswith(b"HTTP/1.1 200") and b"connection: close" in second
        assert server.wait_exit() == 0  # long before the 30 s: no connection is open any more


def test_what_has_not_finished_at_the_drain_timeout_gets_an_error_event(model: Path) -> None:
    with Server(model, "--drain-grace", "0", "--drain-timeout", "0.2") as server:
        stream = server.stream(prompt=PROMPT, max_tokens=4000)
        stream.next()
        server.send_signal(signal.SIGTERM)
        events = stream.rest()
        assert events[-1]["error"]["code"] == "draining"
        assert server.wait_exit() == 0


def test_a_second_sigterm_ends_at_once(model: Path) -> None:
    with Server(model) as server:
        stream = server.stream(prompt=PROMPT, max_tokens=4000)
        stream.next()
        child = server.child_pid
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: server.health() == 503, "draining")
        server.send_signal(signal.SIGTERM)
        assert server.wait_exit() == 1
        wait_until(lambda: not alive(child), "engine process gone")
        stream.close()


def test_an_idle_server_exits_at_once(model: Path) -> None:
    with Server(model) as server:
        wait_until(lambda: server.metrics()["http_connections"] <= 1, "quiet")
        server.send_signal(signal.SIGINT)
        assert server.wait_exit() == 0


def test_sigterm_before_anything_has_started_is_no_error(model: Path) -> None:
    with Server(model, wait=False) as server:  # it has printed its configuration and nothing more
        server.send_signal(signal.SIGTERM)
        assert server.wait_exit() == 0


def test_sigterm_while_loading_ends_promptly(model: Path) -> None:
    with Server(model, wait=False) as server:
        server.wait_listening()
        child = wait_until(lambda: server.child_pid, "engine process")
        assert server.health() == 503
        status, error = server.error(prompt="early")
        assert (status, error["code"]) == (503, "not_ready")
        server.send_signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        assert not alive(child)
        assert not any("is ready" in line for line in server.log)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGFPE, signal.SIGILL])
def test_a_crash_of_the_engine_ends_its_requests_and_is_repaired(model: Path, number: signal.Signals) -> None:
    with Server(model) as server:
        stream = server.stream(prompt=PROMPT, max_tokens=4000)
        whole = server.stream(prompt=PROMPT, max_tokens=4000, stream=False)
        stream.next()
        wait_until(lambda: server.metrics()["requests_running"] == 2, "both run")
        pid = server.kill_child(number)
        events = stream.rest()
        assert events[-1]["error"]["code"] == "engine_lost"
        assert number.name in events[-1]["error"]["message"]
        assert "[DONE]" not in events
        assert whole.response.status == 502
        assert json.loads(whole.response.read())["error"]["code"] == "engine_lost"
        whole.close()
        assert server.health() == 503
        server.wait_ready()
        assert server.child_pid != pid and not alive(pid)
        assert server.complete(prompt="again", max_tokens=3)["usage"]["completion_tokens"] == 3
        metrics = server.metrics()
        assert metrics["restarts_total"] == 1
        assert metrics['requests_total{outcome="failed"}'] == 2
        assert metrics["up"] == 1


def test_a_request_between_two_engines_is_refused_with_retry_after(model: Path) -> None:
    with Server(model) as server:
        server.kill_child()
        wait_until(lambda: server.health() == 503, "noticed")
        status, headers, data = server.request("POST", "/v1/completions", {"prompt": "x"})
        assert status == 503 and headers["retry-after"] == "1"
        assert json.loads(data)["error"]["code"] == "not_ready"
        server.wait_ready()


def test_an_engine_that_stops_answering_is_replaced(model: Path) -> None:
    with Server(model, "--stall-timeout", "1") as server:
        stream = server.stream(prompt=PROMPT, max_tokens=4000)
        stream.next()
        pid = server.child_pid
        os.kill(pid, signal.SIGSTOP)
        events = stream.rest()
        assert events[-1]["error"]["code"] == "engine_lost"
        assert "stopped answering" in events[-1]["error"]["message"]
        server.wait_ready()
        assert server.child_pid != pid and not alive(pid)


def test_a_crash_while_draining_is_told_and_not_repaired(model: Path) -> None:
    with Server(model, "--drain-grace", "0") as server:
        stream = server.stream(prompt=PROMPT, max_tokens=4000)
        stream.next()
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: server.health() == 503, "draining")
        server.kill_child()
        assert stream.rest()[-1]["error"]["code"] == "engine_lost"
        assert server.wait_exit() == 1


def test_no_engine_outlives_its_server(model: Path) -> None:
    with Server(model) as server:
        child = server.child_pid
        server.process.kill()
        server.wait_exit()
        wait_until(lambda: not alive(child), "engine process gone")


def test_no_engine_outlives_its_server_in_the_middle_of_work(model: Path) -> None:
    with Server(model) as server:
        stream = server.stream(prompt=PROMPT, max_tokens=4000)
        stream.next()
        child = server.child_pid
        server.process.kill()
        server.wait_exit()
        wait_until(lambda: not alive(child), "engine process gone")
        stream.close()


def test_a_model_that_cannot_be_loaded_ends_the_server_with_the_reason(model: Path, tmp_path: Path) -> None:
    """The header is right and the weights are not what the engine reads."""
    data = model.read_bytes().replace(b"blk.1.attn_q.weight", b"blk.1.attn_x.weight")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(data)
    with Server(broken, wait=False) as server:
        assert server.wait_exit() == 1
        assert any("while loading" in line for line in server.log)


def test_crashing_again_and_again_while_loading_gives_up(model: Path) -> None:
    with Server(model, "--max-load-failures", "2") as server:
        dead = {server.kill_child()}
        for _ in range(2):
            child = wait_until(lambda: _living_child(server, dead), "next engine process")
            os.kill(child, signal.SIGKILL)
            dead.add(child)
        assert server.wait_exit() == 1
        assert any("was killed by SIGKILL while loading (2 in a row)" in line for line in server.log)


def _living_child(server: Server, dead: set[int]) -> int | None:
    try:
        child = server.child_pid
    except (IndexError, OSError):
        return None
    return None if child in dead else child


def test_a_port_that_is_taken_ends_the_server_with_the_reason(model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with Server(model, "--port", str(taken.getsockname()[1]), wait=False) as server:
            assert server.wait_exit() == 1
            assert any("address already in use" in line.lower() for line in server.log)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max-num-seqs", "4"], "--no-dynamic-split-fuse"),
        (["--inference-precision", "f16"], "--inference-precision f16"),
        (["--max-waiting", "-1"], "--max-waiting -1: must be at least 0"),
        (["--max-body-bytes", "5"], "--max-body-bytes 5: must be at least 1024"),
        (["--api-key-file", "/dev/null"], "the file is empty"),
        (["--drain-timeout", "-3"], "0 to 86400"),
    ],
)
def test_flags_that_cannot_be_honoured_end_with_status_2(model: Path, flags: list[str], words: str) -> None:
    with Server(model, *flags, wait=False) as server:
        assert server.wait_exit() == 2
        assert any(words in line for line in server.log)


def test_bad_http_does_not_disturb_a_stream(model: Path) -> None:
    with Server(model, "--max-body-bytes", "2000") as server:
        stream = server.stream(prompt=PROMPT, max_tokens=300)
        stream.next()
        assert raw(server.port, b"\x00\x01garbage\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert server.request("POST", "/v1/completions", b"x" * 2001)[0] == 413
        assert server.request("POST", "/v1/completions", b"[" * 1999)[0] == 400
        assert server.request("GET", "/" + "a" * 40_000)[0] == 431
        half = socket.create_connection(("127.0.0.1", server.port))
        half.sendall(POST[:50])
        assert len(stream.rest()) == 300
        half.close()
        wait_until(lambda: server.metrics()["http_connections"] <= 1, "connections closed")


def test_nothing_is_written_and_nobody_is_called(model: Path, tmp_path: Path) -> None:
    """Importing OpenVINO reports to a statistics service unless it is kept from it; this server keeps it."""
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    with Server(model, env={"HOME": str(home), "XDG_CACHE_HOME": str(home)}) as server:
        server.complete(prompt="hi", max_tokens=2)
        child = server.child_pid
        sockets = [str(fd.readlink()) for fd in Path(f"/proc/{child}/fd").iterdir() if fd.is_symlink()]
        assert sum(target.startswith("socket:") for target in sockets) == 1  # the parent
        writable = [target for target in sockets if target.startswith("/") and not target.startswith("/dev/")]
        assert writable == []
    assert list(home.iterdir()) == []
    check = "import sys, trimtab_engine.backend; print([m for m in sys.modules if m.startswith('openvino_telemetry.')])"
    found = subprocess.run([sys.executable, "-c", check], cwd=PACKAGE_ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
