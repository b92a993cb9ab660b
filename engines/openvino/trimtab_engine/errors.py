"""The errors of the engine server; each message names the flag or field, the value, the limit and the way out."""

from __future__ import annotations

from typing import Any


class UsageError(Exception):
    """The command line cannot be honoured. Exit status 2."""


class WireError(Exception):
    """The two processes disagree about the byte stream between them: a defect, never a client's fault."""


class ApiError(Exception):
    """A request is answered with an error object in OpenAI's shape.

    `status` is the HTTP status, `code` a machine-readable reason, `param` the field at fault if there is one,
    `retry_after_s` the value of a Retry-After header if retrying can help.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """The JSON object of the answer."""
        return {
            "error": {
                "message": self.message,
                "type": _error_type(self.status),
                "param": self.param,
                "code": self.code,
            }
        }


def _error_type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    if status >= 500:
        return "server_error"
    return "invalid_request_error"
