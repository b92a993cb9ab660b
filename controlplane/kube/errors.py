"""What can go wrong between us and the API server, one class per case a caller treats differently."""

from __future__ import annotations

import msgspec

from controlplane.model.errors import TrimtabError

_MESSAGE_LIMIT_CHARS = 2_000


class KubeError(Exception):
    """A request failed. `status` is the HTTP status, 0 when no answer came; `reason` is Kubernetes' word for it."""

    def __init__(
        self, status: int, reason: str, message: str, *, retry_after_s: float | None = None, what: str = ""
    ) -> None:
        self.status = status
        self.reason = reason
        self.message = message[:_MESSAGE_LIMIT_CHARS]
        self.retry_after_s = retry_after_s
        self.what = what
        super().__init__(status, reason, message)

    def __str__(self) -> str:
        head = f"{self.what}: " if self.what else ""
        return f"{head}{self.status or 'no answer'} {self.reason}: {self.message}"


class BadRequest(KubeError):
    """400: the server could not make sense of the request."""


class Unauthorized(KubeError):
    """401: the server does not accept the credentials."""


class Forbidden(KubeError):
    """403: the credentials are good, the rights are missing."""


class NotFound(KubeError):
    """404: no such object, or no such resource."""


class Conflict(KubeError):
    """409: the resourceVersion or uid precondition failed, or another field manager owns a field."""


class AlreadyExists(Conflict):
    """409 with reason AlreadyExists: a create met an object of that name."""


class Gone(KubeError):
    """410: the resourceVersion or continue token is older than what the server keeps: list again."""


class RequestTooLarge(KubeError):
    """413: the object is over the server's limit (3 MiB for a request, about 1.5 MiB in etcd)."""


class Invalid(KubeError):
    """422: the object breaks its schema or a validation rule; trying again does not help."""


class TooManyRequests(KubeError):
    """429: the server sheds load, or an eviction would break a disruption budget. See `retry_after_s`."""


class ServerError(KubeError):
    """5xx: the server, or something behind it, is in trouble."""


class Unreachable(KubeError):
    """No connection, or it broke before the answer was complete."""


class Timeout(KubeError):
    """No complete answer within the time allowed. The request may or may not have taken effect."""


class ResponseTooLarge(KubeError):
    """The answer, or one line of a watch, exceeds the size we are ready to hold in memory."""


class ConfigError(TrimtabError):
    """The kubeconfig or the in-cluster files cannot be used; the message says which and what to do."""


class _Details(msgspec.Struct):
    retryAfterSeconds: float | None = None


class StatusBody(msgspec.Struct):
    """The `Status` object the API server sends with every refusal, and inside an ERROR watch event."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


_status_decoder = msgspec.json.Decoder(StatusBody)

_BY_STATUS: dict[int, type[KubeError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: RequestTooLarge,
    422: Invalid,
    429: TooManyRequests,
}


def error_from(status: int, body: bytes, *, retry_after_s: float | None = None, what: str = "") -> KubeError:
    """The typed error for an answer of `status` (>= 400, or the code of an ERROR watch event) and its `body`."""
    reason, message = "", ""
    try:
        parsed = _status_decoder.decode(body)
    except msgspec.MsgspecError:
        message = body[:_MESSAGE_LIMIT_CHARS].decode("utf-8", "replace")
    else:
        reason, message = parsed.reason, parsed.message
        if retry_after_s is None and parsed.details is not None:
            retry_after_s = parsed.details.retryAfterSeconds
    if reason == "AlreadyExists":
        return AlreadyExists(status, reason, message, what=what)
    # A watch that starts from a compacted version reports "Expired" with 410; some proxies keep only the reason.
    if reason in ("Expired", "Gone"):
        return Gone(status, reason, message, what=what)
    kind = _BY_STATUS.get(status) or (ServerError if status >= 500 else KubeError)
    return kind(status, reason or kind.__name__, message, retry_after_s=retry_after_s, what=what)
