"""The cheapest possible API server: prepared list pages and watch bytes, so that only the client is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

from tests.perf.pod_json import pod_bytes

_PAGE = 500
_BATCH = 50


class StubApiServer:
    """Serves `pods` pods under any list path, then `events` MODIFIED events on each watch, then holds it open."""

    def __init__(self, pods: int, events: int = 0) -> None:
        self.pods = pods
        self.events = events
        self._server: asyncio.Server | None = None
        self.port = 0
        self.sent_all = asyncio.Event()
        # Made beforehand: a server that computes between two pages cools the client's caches, and we measure the client.
        self._event_chunks = list(self._make_events())
        self._pages = {start: self._make_page(start) for start in range(0, self.pods, _PAGE)}

    async def __aenter__(self) -> StubApiServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    def _make_events(self) -> Iterator[bytes]:
        for start in range(0, self.events, _BATCH):
            chunks = []
            for number in range(start, min(start + _BATCH, self.events)):
                obj = pod_bytes(number % self.pods, version=2 + number // self.pods)
                line = b'{"type":"MODIFIED","object":' + obj + b"}\n"
                # One HTTP chunk per event, as the API server flushes them.
                chunks.append(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            yield b"".join(chunks)

    def _make_page(self, start: int) -> bytes:
        end = min(start + _PAGE, self.pods)
        items = b",".join(pod_bytes(number) for number in range(start, end))
        following = f',"continue":"{end}"' if end < self.pods else ""
        meta = f'{{"resourceVersion":"1000000"{following}}}'.encode()
        return b'{"kind":"PodList","apiVersion":"v1","metadata":' + meta + b',"items":[' + items + b"]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                query = parse_qs(urlsplit(head.split(b" ", 2)[1].decode()).query)
                if "watch" in query:
                    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    for chunk in self._event_chunks:
                        writer.write(chunk)
                        await writer.drain()
                    self.sent_all.set()
                    await reader.read()
                    return
                body = self._pages[int(query.get("continue", ["0"])[0])]
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
