"""The HTTP layer alone: parsing, limits, pipelining, slow and vanishing clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import uvloop

from trimtab_engine.app import error_body
from trimtab_engine.errors import ApiError
from trimtab_engine.exchange import HttpLimits, Request, Responder
from trimtab_engine.httpd import HttpServer

LIMITS = HttpLimits(max_head_bytes=2048, max_headers=20, max_body_bytes=1000, max_connections=4)


class Site:
    """A server whose handler answers with what it got, or keeps the responder for the test."""

    def __init__(self, limits: HttpLimits) -> None:
        self.refused: list[ApiError] = []
        self.kept: asyncio.Queue[Responder] = asyncio.Queue()
        self.server = HttpServer(self.handle, limits, error_body, self.refused.append)
        self.port = 0

    def handle(self, request: Request, responder: Responder) -> None:
        if request.path == "/keep":
            self.kept.put_nowait(responder)
            return
        answer = {"method": request.method, "path": request.path, "body": request.body.decode("latin-1")}
        responder.send(200, json.dumps(answer).encode())

    async def talk(self, data: bytes) -> bytes:
        """Everything that comes back until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        received = await reader.read()
        writer.close()
        return received


def run(test: Callable[[Site], Awaitable[None]], limits: HttpLimits = LIMITS) -> None:
    async def main() -> None:
        site = Site(limits)
        site.port = await site.server.listen("127.0.0.1", 0)
        try:
            await asyncio.wait_for(test(site), 30)
        finally:
            site.server.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def post(body: bytes, *headers: bytes) -> bytes:
    head = b"".join(header + b"\r\n" for header in headers)
    return b"POST /x HTTP/1.1\r\nhost: a\r\n%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


CLOSE = b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"


def test_keep_alive_and_pipelining_keep_the_order() -> None:
    async def test(site: Site) -> None:
        received = await site.talk(post(b"one") + post(b"two") + CLOSE)
        assert received.count(b"HTTP/1.1 200 OK") == 3
        assert received.index(b"one") < received.index(b"two") < received.index(b"/last")
        assert b"connection: close" in received.split(b"two")[1]

    run(test)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_request_may_arrive_in_any_pieces(size: int) -> None:
    async def test(site: Site) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        data = post(b"body of it") + CLOSE
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await asyncio.sleep(0)
        assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 2
        writer.close()

    run(test)


def test_a_chunked_body_is_joined() -> None:
    async def test(site: Site) -> None:
        data = b"POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        assert b'"abcde"' in await site.talk(data + CLOSE)

    run(test)


def test_http_1_0_gets_an_unchunked_stream_and_a_close() -> None:
    async def test(site: Site) -> None:
        task = asyncio.create_task(site.talk(b"GET /keep HTTP/1.0\r\n\r\n"))
        responder = await site.kept.get()
        responder.stream(b"data: 1\n\n")
        responder.end(b"data: 2\n\n")
        received = await task
        assert b"transfer-encoding" not in received
        assert received.endswith(b"\r\n\r\ndata: 1\n\ndata: 2\n\n")

    run(test)


def test_head_has_no_body() -> None:
    async def test(site: Site) -> None:
        received = await site.talk(b"HEAD /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert received.endswith(b"\r\n\r\n") and b"content-length: 4" in received

    run(test)


def test_continue_is_answered_before_the_body() -> None:
    async def test(site: Site) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        head, _, body = post(b"later", b"expect: 100-continue").partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body + CLOSE)
        assert b'"later"' in await reader.read()
        writer.close()

    run(test)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"hello\r\n\r\n", 400, "bad_http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", 400, "bad_http"),  # a TLS handshake
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400, "bad_http"),
        (b"GET / HTTP/9.9\r\nhost: a\r\n\r\n", 400, "bad_http"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n", 400, "bad_http"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", 400, "bad_http"),
        (
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "bad_http",
        ),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400, "bad_http"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1001\r\n\r\n", 413, "body_too_large"),
        (
            b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001 + b"\r\n",
            413,
            "body_too_large",
        ),
        (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 431, "headers_too_large"),
        (b"GET /" + b"a" * 3000, 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\nlong: " + b"a" * 3000, 431, "headers_too_large"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 21 + b"\r\n", 431, "headers_too_large"),
    ],
)
def test_what_cannot_be_read_is_refused_and_the_connection_closed(data: bytes, status: int, code: str) -> None:
    async def test(site: Site) -> None:
        received = await site.talk(data)
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status), received
        assert json.loads(body)["error"]["code"] == code
        assert b"connection: close" in head
        assert [error.status for error in site.refused] == [status]

    run(test)


@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_an_offered_upgrade_is_ignored(size: int) -> None:
    """Some clients offer HTTP/2 on every first request and expect an HTTP/1.1 answer from servers without it."""

    async def test(site: Site) -> None:
        offer = (b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA")
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        data = post(b"the body", *offer)
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await writer.drain()
            await asyncio.sleep(0)
        received = await reader.read()
        writer.close()
        assert received.count(b"HTTP/1.1") == 1
        assert received.startswith(b"HTTP/1.1 200") and b'"the body"' in received

    run(test)


def test_a_slow_head_and_a_slow_body_end_with_408() -> None:
    limits = replace(LIMITS, head_timeout_s=0.2, body_timeout_s=0.2)

    async def test(site: Site) -> None:
        slow_head, slow_body = await asyncio.gather(
            site.talk(b"GET / HTTP/1.1\r\nhos"),
            site.talk(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nabc"),
        )
        for received in (slow_head, slow_body):
            assert received.startswith(b"HTTP/1.1 408 ")

    run(test, limits)


def test_drip_fed_headers_do_not_extend_the_deadline() -> None:
    limits = replace(LIMITS, head_timeout_s=0.3)

    async def test(site: Site) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        answer = asyncio.create_task(reader.read())
        writer.write(b"GET / HTTP/1.1\r\n")
        while not answer.done():  # ends when the server has had enough
            writer.write(b"a: b\r\n")
            await asyncio.sleep(0.1)
        assert (await answer).startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 431 "))
        writer.close()

    run(test, limits)


def test_idle_connections_are_closed_without_a_word() -> None:
    limits = replace(LIMITS, head_timeout_s=0.2, idle_timeout_s=0.2)

    async def test(site: Site) -> None:
        assert await site.talk(b"") == b""
        assert (await site.talk(post(b"x"))).count(b"HTTP/1.1") == 1

    run(test, limits)


def test_too_many_connections_are_refused_and_the_others_live_on() -> None:
    async def test(site: Site) -> None:
        others = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(4)]
        for reader, writer in others:  # an answer each: all four have been accepted
            writer.write(post(b"x"))
            await reader.readuntil(b"}")
        received = await site.talk(b"")
        assert received.startswith(b"HTTP/1.1 503 ") and b"too_many_connections" in received
        reader, writer = others[0]
        writer.write(CLOSE)
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        for _, writer in others:
            writer.close()

    run(test)


def test_a_vanished_client_is_told_to_the_handler_once() -> None:
    async def test(site: Site) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"GET /keep HTTP/1.1\r\nhost: a\r\n\r\n")
        responder = await site.kept.get()
        gone = asyncio.Event()
        calls: list[int] = []

        def note() -> None:
            calls.append(1)
            gone.set()

        responder.on_disconnect = note
        responder.stream(b"data: 1\n\n")
        writer.close()
        await gone.wait()
        responder.write(b"data: 2\n\n")  # harmless
        responder.end()
        assert calls == [1]

    run(test)


def test_a_client_that_does_not_read_is_cut_off() -> None:
    limits = replace(LIMITS, max_unsent_bytes=1 << 20)

    async def test(site: Site) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1024)
        writer.write(b"GET /keep HTTP/1.1\r\nhost: a\r\n\r\n")
        responder = await site.kept.get()
        gone = asyncio.Event()
        responder.on_disconnect = gone.set
        responder.stream(b"x")
        while not gone.is_set():
            responder.write(b"y" * 65536)
            await asyncio.sleep(0)
        assert not site.server.connections
        writer.close()

    run(test, limits)


def test_pipelining_has_a_bound() -> None:
    async def test(site: Site) -> None:
        keep = b"GET /keep HTTP/1.1\r\nhost: a\r\n\r\n"
        received = await site.talk(keep * 40)  # the first is under way: the rest is over the bound, so it is cut off
        assert received == b""

    run(test)


def test_closing_connections_ends_each_after_its_response() -> None:
    async def test(site: Site) -> None:
        site.server.closing_connections = True
        received = await site.talk(post(b"one"))
        assert b"connection: close" in received and b'"one"' in received

    run(test)
