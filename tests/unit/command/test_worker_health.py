"""What a worker's probes are told, over real HTTP."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from controlplane.worker_health import Health, probed, silence
from tests.servers import free_port


def asked(port: int, path: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def test_a_worker_is_alive_before_it_is_ready() -> None:
    health = Health()
    with probed(health, "127.0.0.1", free_port()) as port:
        assert asked(port, "/healthz")[0] == 200
        assert asked(port, "/readyz") == (503, "the database has not answered yet\n")
        health.ready()
        assert asked(port, "/readyz")[0] == 200
        assert "process_resident_memory_bytes" in asked(port, "/metrics")[1]


def test_a_silence_that_lasts_too_long_is_told() -> None:
    now_s = 0.0
    health = Health()
    health.watch(silence(lambda: 0.0, lambda: now_s, 300, "sweeps"))
    assert health.wrong() is None
    now_s = 301.0
    assert health.wrong() == "sweeps: nothing for 301 s"


def test_without_a_port_nothing_is_served() -> None:
    with probed(Health(), "127.0.0.1", 0) as port:
        assert port == 0


def test_the_port_is_free_again_afterwards() -> None:
    port = free_port()
    for _ in range(2):
        with probed(Health(), "127.0.0.1", port):
            assert asked(port, "/healthz")[0] == 200
    with pytest.raises(urllib.error.URLError):
        asked(port, "/healthz")
