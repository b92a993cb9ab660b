"""The server's state and routes: which requests live, where their tokens go, and what is refused when."""

from __future__ import annotations

import hmac
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from secrets import token_hex
from typing import Any, Final

from trimtab_engine import openai, render, wire
from trimtab_engine.errors import ApiError
from trimtab_engine.exchange import Request, Responder
from trimtab_engine.metrics import Metrics
from trimtab_engine.supervisor import Supervisor

_TEXT: Final = b"text/plain; version=0.0.4; charset=utf-8"
_GENERATE: Final = {"/v1/completions": False, "/v1/chat/completions": True}
_RETRY_S: Final = 1


@dataclass(frozen=True, slots=True)
class AppSettings:
    """What the routes need to know. `api_key` None leaves /v1 open; `max_waiting` counts requests."""

    served_model: str
    limits: openai.Limits
    max_waiting: int
    api_key: bytes | None


class Generation:
    """One accepted request between its arrival and its last token."""

    __slots__ = ("_app", "_ask", "_events", "_last_s", "_renderer", "_responder", "_start_s", "_tokens", "request_id")

    def __init__(self, app: App, request_id: int, ask: openai.Ask, request: Request, responder: Responder) -> None:
        self.request_id = request_id
        self._app = app
        self._ask = ask
        self._responder = responder
        self._start_s = request.received_s
        self._last_s = 0.0
        self._tokens = 0
        self._events: list[wire.Event] = []
        prefix = "chatcmpl" if ask.chat else "cmpl"
        self._renderer = render.Renderer(ask, f"{prefix}-{token_hex(12)}", app.settings.served_model, int(time.time()))
        responder.on_disconnect = self._disconnected

    def take(self, event: wire.Event, now_s: float) -> None:
        """An event of the engine."""
        if event.finish >= wire.FINISH_REJECTED:
            self._refused(event)
            return
        metrics = self._app.metrics
        count = event.tokens
        if count:
            if self._tokens:
                metrics.inter_token.observe((now_s - self._last_s) / count, count)
            else:
                metrics.ttft.observe(now_s - self._start_s)
                metrics.prompt_tokens += event.prompt_tokens
                if count > 1:
                    metrics.inter_token.observe(0.0, count - 1)
            metrics.generation_tokens += count
            self._tokens += count
            self._last_s = now_s
        if event.finish:
            self._app.forget(self, "completed")
            metrics.finish_reasons[render.finish_reason(event.finish) or ""] += 1
            metrics.end_to_end.observe(now_s - self._start_s)
        if not self._ask.stream:
            self._events.append(event)
            if event.finish:
                self._responder.send(200, self._renderer.whole(self._events))
            return
        data = self._renderer.chunk(event)
        if event.finish:
            data += self._renderer.last(event.prompt_tokens, self._tokens)
        if not self._responder.streaming:
            self._responder.stream(data)
            if event.finish:
                self._responder.end()
        elif event.finish:
            self._responder.end(data)
        else:
            self._responder.write(data)

    def fail(self, error: ApiError) -> None:
        """End the request for a reason on the server's side."""
        self._app.forget(self, "failed")
        self._answer(error)

    def _refused(self, event: wire.Event) -> None:
        reason: dict[str, Any] = json.loads(event.text)
        rejected = event.finish == wire.FINISH_REJECTED
        error = ApiError(400 if rejected else 503, reason["message"], reason["code"], param=reason["param"])
        self._app.forget(self, None if rejected else "failed")
        if rejected:
            self._app.metrics.reject("bad_request")
        self._answer(error)

    def _answer(self, error: ApiError) -> None:
        if self._responder.streaming:
            self._responder.end(render.error_event(error))
        else:
            send_error(self._responder, error)

    def _disconnected(self) -> None:
        self._app.forget(self, "cancelled")
        self._app.engine.send(wire.encode_cancel(self.request_id))


def send_error(responder: Responder, error: ApiError) -> None:
    """An error answer with its headers."""
    extra = b""
    if error.retry_after_s is not None:
        extra += b"retry-after: %d\r\n" % error.retry_after_s
    if error.status == 401:
        extra += b"www-authenticate: Bearer\r\n"
    responder.send(error.status, error_body(error), extra=extra)


def error_body(error: ApiError) -> bytes:
    """An error answer's JSON."""
    return json.dumps(error.body()).encode()


class App:
    """Routes requests and engine steps to each other."""

    engine: Supervisor

    def __init__(self, settings: AppSettings, metrics: Metrics, now: Callable[[], float]) -> None:
        self.settings = settings
        self.metrics = metrics
        self._now = now
        self._live: dict[int, Generation] = {}
        self._next_id = 1
        self._created_s = int(time.time())
        self.draining = False  # /health says 503, so that no new client is sent here
        self.refusing = False  # new work is refused as well
        self.on_idle: Callable[[], None] = lambda: None

    @property
    def live(self) -> int:
        """Requests accepted and not finished."""
        return len(self._live)

    def handle(self, request: Request, responder: Responder) -> None:
        """One HTTP request. Never raises: a defect in one request must not end the connections of others."""
        try:
            self._route(request, responder)
        except ApiError as error:
            send_error(responder, error)
        except Exception:
            traceback.print_exc()
            send_error(responder, ApiError(500, "internal error; the server's log has the details", "internal_error"))

    def _route(self, request: Request, responder: Responder) -> None:
        path = request.path
        if path in _GENERATE:
            _only(request, "POST")
            self._generate(request, responder, chat=_GENERATE[path])
        elif path == "/health":
            _only(request, "GET", "HEAD")
            self._health(responder)
        elif path == "/health/live":
            _only(request, "GET", "HEAD")
            responder.send(200, b'{"status": "live"}')
        elif path == "/metrics":
            _only(request, "GET", "HEAD")
            responder.send(200, self.metrics.render(self.settings.served_model), _TEXT)
        elif path == "/v1/models":
            _only(request, "GET", "HEAD")
            self._authorize(request)
            responder.send(200, json.dumps({"object": "list", "data": [self._model()]}).encode())
        elif path == f"/v1/models/{self.settings.served_model}":
            _only(request, "GET", "HEAD")
            self._authorize(request)
            responder.send(200, json.dumps(self._model()).encode())
        else:
            raise ApiError(404, f"{path[:200]}: no such route", "not_found")

    def _health(self, responder: Responder) -> None:
        if self.draining:
            status = "draining"
        elif not self.engine.ready:
            status = "restarting" if self.engine.restarts else "loading"
        else:
            status = "ready"
        responder.send(200 if status == "ready" else 503, json.dumps({"status": status}).encode())

    def _model(self) -> dict[str, Any]:
        return {
            "id": self.settings.served_model,
            "object": "model",
            "created": self._created_s,
            "owned_by": "trimtab",
            "max_model_len": self.settings.limits.context_tokens,
        }

    def _authorize(self, request: Request) -> None:
        key = self.settings.api_key
        if key is None:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        matches = hmac.compare_digest(token.strip().encode("latin-1"), key)
        if scheme.lower() != "bearer" or not matches:
            self.metrics.reject("unauthorized")
            raise ApiError(
                401, "the Authorization header must be `Bearer` and this server's API key", "invalid_api_key"
            )

    def _generate(self, request: Request, responder: Responder, *, chat: bool) -> None:
        self._authorize(request)
        if self.refusing:
            self.metrics.reject("draining")
            request.keep_alive = False
            raise ApiError(
                503, "the server is shutting down; send the request again", "draining", retry_after_s=_RETRY_S
            )
        if not self.engine.ready:
            self.metrics.reject("not_ready")
            raise ApiError(503, "the engine is loading; send the request again", "not_ready", retry_after_s=_RETRY_S)
        waiting = len(self._live) - self.metrics.running
        if waiting >= self.settings.max_waiting:
            self.metrics.reject("queue_full")
            limit = self.settings.max_waiting
            message = (
                f"{waiting} requests are waiting, the limit is {limit} (--max-waiting); send the request again later"
            )
            raise ApiError(429, message, "queue_full", retry_after_s=_RETRY_S)
        try:
            ask = openai.parse(
                request.body, chat=chat, served_model=self.settings.served_model, limits=self.settings.limits
            )
        except ApiError:
            self.metrics.reject("bad_request")
            raise
        request_id = self._next_id
        self._next_id += 1
        if not self._live:
            self.engine.work_begins()
        self._live[request_id] = Generation(self, request_id, ask, request, responder)
        self.metrics.waiting = waiting + 1
        self.engine.send(wire.encode_submit(replace(ask.submit, request_id=request_id)))

    def step(self, step: wire.Step) -> None:
        """What one engine step produced."""
        metrics = self.metrics
        now_s = self._now()
        live = self._live
        for event in step.events:
            generation = live.get(event.request_id)
            if generation is not None:  # else its client has gone while the step ran
                generation.take(event, now_s)
        metrics.engine_steps += 1
        metrics.running = min(step.running, len(live))
        metrics.waiting = len(live) - metrics.running
        metrics.kv_usage = step.kv_usage
        if step.kv_bytes:
            metrics.kv_bytes = step.kv_bytes

    def engine_ready(self, facts: dict[str, Any]) -> None:
        """The engine process is loaded and warm."""
        self.metrics.engine_up = True
        self.metrics.kv_bytes = facts["kv_bytes"]

    def engine_lost(self, cause: str) -> None:
        """The engine process has gone; what it was working on cannot be finished."""
        self.metrics.engine_up = False
        self.metrics.engine_restarts += 1
        self.fail_all(
            ApiError(502, f"the engine process {cause}; send the request again", "engine_lost", retry_after_s=_RETRY_S)
        )
        self.metrics.running = self.metrics.waiting = 0
        self.metrics.kv_usage = 0.0

    def fail_all(self, error: ApiError) -> None:
        """End every request with an error."""
        for generation in list(self._live.values()):
            generation.fail(error)

    def forget(self, generation: Generation, outcome: str | None) -> None:
        """A request has ended."""
        del self._live[generation.request_id]
        if outcome is not None:
            self.metrics.outcomes[outcome] += 1
        if not self._live:
            self.on_idle()


def _only(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise ApiError(405, f"{request.method} {request.path[:200]}: only {' or '.join(methods)}", "method_not_allowed")
