"""Many small writes to the API server: a few keep-alive connections instead of one kubectl per batch."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

from devcluster.errors import DevclusterError

CONNECTIONS = 3
TIMEOUT_S = 60.0
_ANSWER_LIMIT_BYTES = 8 * 1024 * 1024


class Api:
    """Raw requests with a bearer token. `url` is https://HOST:PORT."""

    def __init__(self, url: str, authority_file: str, token: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._context = ssl.create_default_context(cafile=authority_file)
        self._token = token

    @contextmanager
    def _connection(self) -> Iterator[http.client.HTTPSConnection]:
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_S, context=self._context)
        try:
            yield connection
        finally:
            connection.close()

    def apply_all(
        self, collection: str, objects: Sequence[dict[str, Any]], manager: str, done: Callable[[int], None]
    ) -> None:
        """Server-side apply of objects of one collection path. Raises DevclusterError on the first refusal."""
        shares = [objects[start::CONNECTIONS] for start in range(CONNECTIONS)]
        finished = 0

        def work(share: Sequence[dict[str, Any]]) -> None:
            nonlocal finished
            with self._connection() as connection:
                for item in share:
                    self._apply(connection, collection, item, manager)
                    finished += 1
                    if finished % 100 == 0:
                        done(finished)

        with ThreadPoolExecutor(max_workers=CONNECTIONS) as pool:
            list(pool.map(work, shares))

    def _apply(
        self, connection: http.client.HTTPSConnection, collection: str, item: dict[str, Any], manager: str
    ) -> None:
        name = item["metadata"]["name"]
        path = f"{collection}/{quote(name)}?fieldManager={quote(manager)}&force=true"
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/apply-patch+yaml"}
        try:
            connection.request("PATCH", path, body=json.dumps(item), headers=headers)
            answer = connection.getresponse()
            body = answer.read(_ANSWER_LIMIT_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise DevclusterError(f"applying {item['kind']} {name}: {error}") from error
        if answer.status >= 300:
            message = body.decode(errors="replace")[:500]
            raise DevclusterError(f"the API server refused {item['kind']} {name} with {answer.status}: {message}")
