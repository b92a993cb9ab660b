"""One request with a bound on its whole time and on its size.

Timeouts of sockets hold for each read alone: an engine that drips a byte now and then would hold its worker for ever.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Mapping
from typing import Any

_MOST_BYTES = 16 << 20


class _Bounded(socket.socket):
    """Each read gets what is left of the time."""

    until_s = 0.0

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(_left(self.until_s))
        return super().recv_into(*args, **kwargs)


def get(host: str, port: int, path: str, *, timeout_s: float) -> tuple[int, bytes]:
    """Status and body. Raises OSError: no whole answer in that time, not HTTP, more than 16 MiB."""
    return ask("GET", host, port, path, timeout_s=timeout_s)


def ask(
    method: str,
    host: str,
    port: int,
    path: str,
    *,
    timeout_s: float,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    most_bytes: int = _MOST_BYTES,
) -> tuple[int, bytes]:
    """Status and body. `timeout_s`: from the first packet to the last byte. Raises OSError: no whole answer in that
    time, not HTTP, more than `most_bytes`."""
    until_s = time.monotonic() + timeout_s
    connection = http.client.HTTPConnection(host, port)
    try:
        connected = socket.create_connection((host, port), timeout=_left(until_s))
        bounded = _Bounded(fileno=connected.detach())
        bounded.until_s = until_s
        connection.sock = bounded
        bounded.settimeout(_left(until_s))  # for all of what is sent
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        found = answer.read(most_bytes + 1)
    except http.client.HTTPException as error:
        raise OSError(f"not HTTP: {error}") from error
    except TimeoutError as error:
        raise TimeoutError(f"no whole answer within {timeout_s:g} s") from error
    finally:
        connection.close()
    if len(found) > most_bytes:
        raise OSError(f"an answer of more than {most_bytes} bytes")
    if answer.length:
        raise OSError(f"the answer broke off, {answer.length} bytes before its end")
    return answer.status, found


def _left(until_s: float) -> float:
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
