"""`serve`: puts server, supervisor and signals together, and decides when the process ends and with which status."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
import time
from dataclasses import asdict, dataclass

from trimtab_engine import __version__
from trimtab_engine.app import App, AppSettings, error_body
from trimtab_engine.cpu import Host
from trimtab_engine.errors import ApiError
from trimtab_engine.exchange import HttpLimits
from trimtab_engine.httpd import HttpServer
from trimtab_engine.metrics import Metrics
from trimtab_engine.options import EngineOptions
from trimtab_engine.supervisor import EngineFailed, Supervisor

EXIT_OK = 0
EXIT_FAILED = 1


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Everything `serve` was told. Durations in seconds."""

    host: str
    port: int
    app: AppSettings
    http: HttpLimits
    engine: EngineOptions
    drain_grace_s: float
    drain_timeout_s: float
    max_load_failures: int
    stall_timeout_s: float


class Service:
    """One running server."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._metrics = Metrics()
        self._app = App(settings.app, self._metrics, time.monotonic)
        self._http = HttpServer(self._app.handle, settings.http, error_body, self._refused)
        self._engine = Supervisor(
            settings.engine,
            on_ready=self._ready,
            on_step=self._app.step,
            on_lost=self._lost,
            max_load_failures=settings.max_load_failures,
            stall_timeout_s=settings.stall_timeout_s,
        )
        self._engine.awaiting_step = lambda: self._app.live > 0
        self._app.engine = self._engine
        self._drain = asyncio.Event()
        self._abort = asyncio.Event()
        self._idle = asyncio.Event()
        self._app.on_idle = self._idle.set
        self._lost_while_draining = False

    async def run(self) -> int:
        """Serve until told to stop; the exit status. Raises OSError when the port is taken."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._signalled)
        engine = self._loop.create_task(self._engine.run())
        try:
            port = await self._http.listen(self._settings.host, self._settings.port)
            sys.stderr.write(f"listening on {self._settings.host}:{port}\n")
            drain = self._loop.create_task(self._drain.wait())
            await asyncio.wait({engine, drain}, return_when=asyncio.FIRST_COMPLETED)
            if not self._drain.is_set():
                engine.result()  # raises EngineFailed: `run` returns by itself only after `stop`
            drain.cancel()
            status = await self._drain_and_close()
        except EngineFailed as error:
            sys.stderr.write(f"{error}\n")
            status = EXIT_FAILED
        finally:
            self._engine.stop()
            self._engine.kill()
            await asyncio.wait({engine})
            self._http.stop()
        await self._flush()
        if not engine.cancelled():
            engine.exception()  # after the decision to stop, a failure to load is no news
        return status

    async def _drain_and_close(self) -> int:
        app = self._app
        app.draining = self._metrics.draining = True
        self._http.closing_connections = True
        if self._engine.ready:
            await self._grace()
        app.refusing = True
        if app.live:
            sys.stderr.write(f"draining {app.live} requests, at most {self._settings.drain_timeout_s:g} s\n")
            await self._wait(self._idle, self._settings.drain_timeout_s)
        if app.live:
            sys.stderr.write(f"ending {app.live} requests that have not finished\n")
            app.fail_all(ApiError(503, "the server is shutting down", "draining", retry_after_s=1))
            if self._abort.is_set():
                return EXIT_FAILED
        return EXIT_FAILED if self._lost_while_draining else EXIT_OK

    async def _grace(self) -> None:
        """Go on serving for a moment: clients hear of the drain from `connection: close`, not from a refusal."""
        deadline_s = self._loop.time() + self._settings.drain_grace_s
        while not self._abort.is_set() and self._loop.time() < deadline_s:
            if not self._app.live and not self._http.connections:
                return
            await self._wait(None, min(0.05, deadline_s - self._loop.time()))

    async def _wait(self, event: asyncio.Event | None, timeout_s: float) -> None:
        """Wait for `event`, for a second signal, or for the timeout."""
        if event is not None:
            event.clear()
        tasks = {self._loop.create_task(e.wait()) for e in (event, self._abort) if e is not None}
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()

    async def _flush(self) -> None:
        """Give the last bytes a second to leave; after a second signal one turn of the loop."""
        for _ in range(2 if self._abort.is_set() else 100):
            if not self._http.connections:
                return
            await asyncio.sleep(0.01)

    def _refused(self, error: ApiError) -> None:
        self._metrics.reject("bad_request")

    def _ready(self, facts: dict[str, object]) -> None:
        self._app.engine_ready(facts)
        sys.stderr.write(f"engine process {self._engine.pid} is ready: {json.dumps(facts)}\n")
        gc.collect()
        gc.freeze()

    def _lost(self, cause: str) -> None:
        if self._drain.is_set():
            self._lost_while_draining = self._lost_while_draining or self._app.live > 0
            self._engine.stop()
        self._app.engine_lost(cause)

    def _signalled(self) -> None:
        if self._drain.is_set():
            self._abort.set()
        self._drain.set()


def describe(settings: ServeSettings, host: Host) -> str:
    """The resolved configuration as one line of JSON, without secrets."""
    shown = asdict(settings)
    shown["app"]["api_key"] = "set" if settings.app.api_key else None
    return json.dumps({"event": "config", "version": __version__, "host": asdict(host), "serve": shown})


def serve(settings: ServeSettings, host: Host) -> int:
    """Run the server; the exit status."""
    import uvloop  # noqa: PLC0415 - not needed by the other commands

    print(describe(settings, host), flush=True)

    async def main() -> int:
        return await Service(settings).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())
