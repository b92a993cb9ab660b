"""One GET with a bound on time and size."""

from __future__ import annotations

import http.client

_MOST_BYTES = 16 << 20


def get(host: str, port: int, path: str, *, timeout_s: float) -> tuple[int, bytes]:
    """Status and body. Raises OSError: no answer, not HTTP, more than 16 MiB."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(_MOST_BYTES + 1)
    except http.client.HTTPException as error:
        raise OSError(f"not HTTP: {error}") from error
    finally:
        connection.close()
    if len(body) > _MOST_BYTES:
        raise OSError(f"an answer of more than {_MOST_BYTES >> 20} MiB")
    return answer.status, body
