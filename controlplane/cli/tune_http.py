"""Requests to a Trimtab API, and what it says no to as errors a person can act on."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import IO, Any, TypeVar
from urllib.parse import urlencode, urlsplit

from controlplane.model.errors import InvalidSpec, Refused, TrimtabError, UnknownName, Unsupported
from controlplane.model.ports import STORE_DOWN

UNREACHABLE = "ServerUnreachable"  # the request never arrived
NO_ANSWER = "NoAnswer"  # it may have
PASSING = {UNREACHABLE, NO_ANSWER} | STORE_DOWN  # what may be over in a moment

ANSWER_BYTES_MAX = 64 * 2**20
_PROBLEM_BYTES_MAX = 2**20
_TIMEOUT_S = 60.0
_SERVER_FAULT = 500  # statuses from here on
_TOKEN_HINT = (
    "kubectl create token ME --audience trimtab --audience https://kubernetes.default.svc.cluster.local (docs/api.md)"  # noqa: S105 - a hint
)
T = TypeVar("T")
_KINDS: dict[str, type[TrimtabError]] = {one.code: one for one in (InvalidSpec, UnknownName, Unsupported)}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token goes to the server that was named, and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Http:
    """One server and the caller's token. Raises InvalidSpec for an address or a token that cannot be used."""

    def __init__(self, server: str, token: str | None, *, timeout_s: float = _TIMEOUT_S) -> None:
        _check_address(server)
        if not token or not token.isascii() or not token.isprintable():
            raise InvalidSpec("a token is needed", field="TRIMTAB_TOKEN", hint=_TOKEN_HINT)
        self.server = server.rstrip("/")
        self._token, self._timeout_s = token, timeout_s
        self._opener = urllib.request.build_opener(_NoRedirect)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        most_bytes: int = ANSWER_BYTES_MAX,
    ) -> bytes:
        """The whole answer. Raises what the API says no to, in its words."""
        with self.open(method, path, query=query, body=body, headers=headers) as answer:
            found = self._patiently(lambda: _whole(answer, most_bytes))
        if len(found) > most_bytes:
            raise Refused("the answer is too long", field="--server", value=path, limit=f"{most_bytes} bytes")
        return found

    def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> IO[bytes]:
        """The answer to read from; nothing for longer than the time limit is an error."""
        asked = {name: value for name, value in (query or {}).items() if value is not None and value != []}
        url = f"{self.server}{path}" + (f"?{urlencode(asked, doseq=True)}" if asked else "")
        sent = {"Authorization": f"Bearer {self._token}", **(headers or {})}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        request = urllib.request.Request(url, data=data, headers=sent, method=method)  # noqa: S310 - http(s): looked at

        def ask() -> IO[bytes]:
            try:
                answer: IO[bytes] = self._opener.open(request, timeout=self._timeout_s)
            except urllib.error.HTTPError as error:
                with error:
                    raise said_no(error.code, error.read(_PROBLEM_BYTES_MAX)) from None
            return answer

        return self._patiently(ask)

    def _patiently(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except TrimtabError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error) from None

    def _silent(self, error: Exception) -> Refused:
        """`URLError` wraps what happened while connecting; what comes later is bare."""
        if isinstance(error, urllib.error.URLError):
            why, hint = (
                str(error.reason),
                "is the address right, and does the API run there? A forwarded port ends with its kubectl",
            )
            if "CERTIFICATE" in why.upper():
                hint = "SSL_CERT_FILE names the file of the authority that the server's certificate is from"
            return Refused(
                f"the API cannot be reached: {why}", field="--server", limit=None, hint=hint,
                value=self.server, code=UNREACHABLE,
            )  # fmt: skip
        why = "it took too long" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        return Refused(f"the API does not answer: {why}", field="--server", value=self.server, code=NO_ANSWER)


def _check_address(server: str) -> None:
    """Raises InvalidSpec, which repeats no password."""
    try:
        parts = urlsplit(server)
        host, secret = (parts.hostname or "").encode("idna"), bool(parts.password or parts.username)
        plain = server.isascii() and server.isprintable() and " " not in server
        usable = plain and parts.scheme in {"http", "https"} and bool(host) and parts.port != 0
        usable = usable and not parts.query and not parts.fragment
    except ValueError:  # brackets, a port that is no number, a name that is none
        usable, secret = False, "@" in server
    if secret:
        raise InvalidSpec("holds a user or a password", field="--server", hint="who you are is said by TRIMTAB_TOKEN")
    if not usable:
        raise InvalidSpec("is no address", field="--server", value=server, limit="http://... or https://...")


def _whole(answer: IO[bytes], most_bytes: int) -> bytes:
    """One that was cut is no answer: `read` with a size says nothing of what is missing."""
    found = answer.read(most_bytes + 1)
    missing: int | None = getattr(answer, "length", None)  # of http.client.HTTPResponse: what is still to come
    if missing and len(found) <= most_bytes:
        raise http.client.IncompleteRead(found, missing)
    return found


def said_no(status: int, body: bytes) -> TrimtabError:
    """The error that a problem document tells of; its detail ends with limit and hint already."""
    try:
        problem = json.loads(body)
        detail, code, hint = str(problem["detail"]), str(problem["code"]), problem.get("hint")
    except (ValueError, TypeError, KeyError):
        hint = "its log says why" if status >= _SERVER_FAULT else "is this a Trimtab API?"
        return Refused(f"the API answered with HTTP {status}", hint=hint)
    if status == 401:
        hint = f"a new token: {_TOKEN_HINT}"
    kind = _KINDS.get(code, UnknownName if status == 404 else Refused)
    return kind(detail, hint=None if not hint or hint in detail else str(hint), code=code)
