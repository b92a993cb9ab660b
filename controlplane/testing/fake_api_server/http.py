"""The little HTTP/1.1 a Kubernetes client speaks, server side."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

HEAD_LIMIT_BYTES = 64 * 1024
_BODY_LIMIT_BYTES = 3 * 1024 * 1024  # the real server's limit for a request


@dataclass(slots=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""
    segments: list[str] = field(default_factory=list)

    @property
    def token(self) -> str | None:
        scheme, _, credential = self.headers.get("authorization", "").partition(" ")
        return credential if scheme.lower() == "bearer" else None


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request on a connection, or None when the client has closed it."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {}
    for line in rest:
        name, separator, value = line.partition(":")
        if separator:
            headers[name.strip().lower()] = value.strip()
    split = urlsplit(target)
    request = Request(method, split.path, dict(parse_qsl(split.query, keep_blank_values=True)), headers)
    request.segments = [unquote(part) for part in split.path.strip("/").split("/")]
    length = int(headers.get("content-length", "0"))
    if length > _BODY_LIMIT_BYTES:
        return request
    try:
        request.body = await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return request


def answer(status: int, body: bytes, retry_after_s: int | None = None) -> bytes:
    extra = f"Retry-After: {retry_after_s}\r\n" if retry_after_s is not None else ""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM_END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
