"""Engines that drip, never end or send too much hold nobody up, whoever asks them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tuner.measure.agreement import Decoder
from tuner.measure.counters import NoCounters, read
from tuner.measure.engine.serving import NotServing
from tuner.measure.http import ask, get
from tuner.measure.loadgen import wire
from tuner.measure.loadgen.job import LoadJob
from tuner.measure.loadgen.plan import constant_rows
from tuner.measure.loadgen.run import run_load

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def engine(begin: bytes, again: bytes, every_s: float = 0.02) -> Iterator[int]:
    """Answers whatever it is asked with `begin`, and with `again` for ever."""
    over = threading.Event()

    def serve(peer: socket.socket) -> None:
        with peer, suppress(OSError):
            peer.recv(1 << 16)
            peer.sendall(begin)
            while not over.wait(every_s):
                peer.sendall(again)

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        stack.callback(over.set)
        stack.callback(lambda: listener.shutdown(socket.SHUT_RDWR))
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield int(listener.getsockname()[1])


DRIPS: Sequence[tuple[bytes, bytes]] = (
    (HEAD, b"x"),
    (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    (CHUNKED, b"1\r\nx\r\n"),
    (CHUNKED, b"0"),
)


@pytest.mark.parametrize(("begin", "again"), DRIPS)
def test_an_answer_that_drips_ends_with_its_time(begin: bytes, again: bytes) -> None:
    with engine(begin, again) as port:
        began_s = time.monotonic()
        with pytest.raises(OSError, match=r"within 0\.5 s"):
            get("127.0.0.1", port, "/health", timeout_s=0.5)
        assert time.monotonic() - began_s < 10.0


def test_a_server_that_takes_no_request_ends_with_its_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(OSError, match=r"within 0\.3 s"):
        ask("POST", "127.0.0.1", deaf.getsockname()[1], "/", timeout_s=0.3, body=b"x" * (64 << 20))


def test_answers_have_a_size() -> None:
    with engine(HEAD + b"x" * 1000, b"x" * 1000, 0.0) as port, pytest.raises(OSError, match="more than 4096 bytes"):
        ask("GET", "127.0.0.1", port, "/", timeout_s=30.0, most_bytes=4096)


def test_whole_answers_come_through() -> None:
    with engine(b"HTTP/1.1 503 Busy\r\nContent-Length: 3\r\n\r\nabc", b"") as port:
        assert get("127.0.0.1", port, "/", timeout_s=30.0) == (503, b"abc")
    with engine(CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"") as port:
        assert get("127.0.0.1", port, "/", timeout_s=30.0) == (200, b"abc")


def test_half_an_answer_is_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def half() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1 << 16)
                peer.sendall(HEAD + b"vllm:x 1\n")

        threading.Thread(target=half, daemon=True).start()
        with pytest.raises(OSError, match="broke off"):
            get("127.0.0.1", listener.getsockname()[1], "/metrics", timeout_s=30.0)


def test_counters_that_drip_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.measure.counters._TIMEOUT_S", 0.5)
    with engine(HEAD, b"vllm:x 1\n") as port, pytest.raises(NoCounters, match=r"within 0\.5 s"):
        read("127.0.0.1", port, "/metrics")


def test_an_answer_for_agreement_that_drips_is_none() -> None:
    with engine(HEAD, b" ") as port, pytest.raises(NotServing, match=r"within 0\.5 s"):
        Decoder("127.0.0.1", port, "m", threading.Event(), timeout_s=0.5).decode([1], 1)


EVENT = b'data: {"choices":[{"text":"x"}]}\n\n'
STREAM = CHUNKED + b"%x\r\n%s\r\n" % (len(EVENT), EVENT)


@pytest.mark.parametrize(
    ("begin", "again"), [(STREAM, b"%x\r\n%s\r\n" % (len(EVENT), EVENT)), (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x")]
)
def test_requests_of_the_load_end_with_their_time_and_count_as_failed(begin: bytes, again: bytes) -> None:
    with engine(begin, again) as port:
        job = LoadJob("127.0.0.1", port, "m", constant_rows(50, 3, 16, 4), clients=2, timeout_s=0.5)
        result = run_load(job, stop=threading.Event(), deadline_s=time.monotonic() + 60)
    assert len(result.samples) == 3 and all("within 0.5 s" in sample.error for sample in result.samples)


def test_a_connection_that_is_never_made_fails_with_its_reason() -> None:
    """A listener whose backlog is full takes no connection and refuses none."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        job = LoadJob("127.0.0.1", full.getsockname()[1], "m", constant_rows(50, 1, 16, 4), clients=1, timeout_s=0.5)
        result = run_load(job, stop=threading.Event(), deadline_s=time.monotonic() + 60)
    assert "no connection within 0.5 s" in result.samples[0].error


@pytest.mark.parametrize(
    ("feed", "why"),
    [
        (lambda take: take(b"HTTP/1.1 200 OK\r\nX: " + b"x" * (80 << 10)), "head"),
        (lambda take: [take(b"x") for _ in range(40)], "pieces"),
    ],
)
def test_heads_and_pieces_of_an_answer_are_bounded(
    feed: Callable[[Callable[[bytes], None]], object], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_MOST_PIECES", 32)
    failed: list[str] = []

    class Heard(wire.Connection):
        def fail(self, why: str) -> None:
            failed.append(why)

    class Waiting:
        @staticmethod
        def done() -> bool:
            return False

    heard = Heard()
    heard._done = Waiting()  # type: ignore[assignment]
    feed(heard.data_received)
    assert failed and why in failed[0]
