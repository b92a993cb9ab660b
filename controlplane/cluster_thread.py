"""The Kubernetes client for code in threads: its event loop runs in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from controlplane.kube import Forbidden, KubeClient, KubeError, load_access
from controlplane.model.errors import Refused

T = TypeVar("T")

CLUSTER_DOWN, NO_QUOTA = "ClusterUnreachable", "QuotaExceeded"
# Beyond what the client allows a call with its repetitions: only a loop that hangs takes longer.
_LIMIT_S = 90.0


class ClusterThread:
    """Raises ConfigError where there is no cluster to be found."""

    def __init__(self, kubeconfig: str | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cluster", daemon=True)
        self._thread.start()
        try:
            self._client = self._wait(self._open(kubeconfig))
        except BaseException:
            self._end_loop()
            raise

    def call(self, ask: Callable[[KubeClient], Awaitable[T]]) -> T:
        """Raises what the client raises."""
        return self._wait(ask(self._client))

    def close(self) -> None:
        self._wait(self._client.aclose())
        self._end_loop()

    @staticmethod
    async def _open(kubeconfig: str | None) -> KubeClient:
        return KubeClient(await load_access(kubeconfig))

    def _wait(self, awaitable: Awaitable[T]) -> T:
        async def whole() -> T:
            return await awaitable

        asked = asyncio.run_coroutine_threadsafe(whole(), self._loop)
        try:
            return asked.result(_LIMIT_S)
        except TimeoutError:
            asked.cancel()
            raise

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def refused(error: KubeError, doing: str, *, field: str | None = None) -> Refused:
    """A failed request in the words of our own errors; the API server's say who must do what."""
    away = error.status in {0, 429} or error.status >= 500
    # The API server has no word of its own for this (apiserver/admission/plugin/resourcequota).
    quota = isinstance(error, Forbidden) and "exceeded quota" in error.message
    code = CLUSTER_DOWN if away else NO_QUOTA if quota else error.reason or "Refused"
    return Refused(f"{doing}: {error.reason}: {error.message}", field=field, code=code)
