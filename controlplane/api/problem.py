"""RFC 9457 problem documents: every refusal names what was wrong and the way out."""

import json
import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from controlplane.kube import KubeError, Timeout, Unreachable
from controlplane.model.errors import TrimtabError

MEDIA_TYPE = "application/problem+json"
_MAX_FIELD_ERRORS = 32
_MAX_VALUE_CHARS = 200
# We have accepted the token by then: what the API server misses is its own audience.
_BOTH_AUDIENCES = "Writes are made with your token: request one for the API server's audience as well as for ours."


class Problem(Exception):
    """Raised anywhere below a route; becomes the response."""

    def __init__(self, status: int, code: str, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.extra = extra
        self.headers: dict[str, str] = {}

    def document(self, instance: str) -> dict[str, Any]:
        """The problem document; `instance` is the path it is about."""
        return {
            "type": f"urn:trimtab:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "instance": instance,
            **self.extra,
        }

    def response(self, request: Request) -> Response:
        body = json.dumps(self.document(request.url.path))
        return Response(body, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def unauthorized(detail: str) -> Problem:
    problem = Problem(401, "Unauthorized", detail, hint="Send Authorization: Bearer TOKEN.")
    problem.headers["WWW-Authenticate"] = 'Bearer realm="trimtab"'
    return problem


def too_many_unknown(wait_s: float) -> Problem:
    """For a token that the API has not seen lately, while there are too many of those."""
    problem = Problem(
        429, "TooManyUnknownTokens", "Too many tokens that this API does not know yet come at once.", hint="Try again."
    )
    problem.headers["Retry-After"] = str(math.ceil(wait_s))
    return problem


def from_kube(error: KubeError) -> Problem:
    """The API server's refusal, passed on with its status; its absence as 502 or 504."""
    if isinstance(error, Timeout):
        return Problem(504, "ClusterTimeout", "The API server did not answer in time.", hint="Try again.")
    if isinstance(error, Unreachable) or error.status == 0:
        return Problem(502, "ClusterUnreachable", "The API server cannot be reached.", hint="Try again.")
    status = error.status if 400 <= error.status < 600 else 502
    extra = {"hint": _BOTH_AUDIENCES} if status == 401 else {}
    problem = Problem(status, error.reason or "ClusterError", error.message, **extra)
    if error.retry_after_s is not None:
        problem.headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return problem


def install(app: FastAPI) -> None:
    """Turn every exception that can leave a route into a problem document."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, error: Problem) -> Response:
        return error.response(request)

    @app.exception_handler(KubeError)
    async def _kube(request: Request, error: KubeError) -> Response:
        return from_kube(error).response(request)

    @app.exception_handler(TrimtabError)
    async def _domain(request: Request, error: TrimtabError) -> Response:
        extra = error.as_dict()
        code = extra.pop("code")
        extra.pop("message")
        return Problem(422, code, str(error), **extra).response(request)

    @app.exception_handler(RequestValidationError)
    async def _validation(request: Request, error: RequestValidationError) -> Response:
        fields = [
            {
                "field": ".".join(str(part) for part in item["loc"]),
                "message": item["msg"],
                "value": repr(item.get("input"))[:_MAX_VALUE_CHARS],
            }
            for item in error.errors()[:_MAX_FIELD_ERRORS]
        ]
        first = fields[0] if fields else {"field": "body", "message": "unreadable"}
        detail = f"{first['field']}: {first['message']}"
        return Problem(422, "InvalidRequest", detail, errors=fields).response(request)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        problem = Problem(error.status_code, HTTPStatus(error.status_code).phrase.replace(" ", ""), str(error.detail))
        problem.headers.update(error.headers or {})
        return problem.response(request)
