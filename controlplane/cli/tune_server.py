"""A tuning job of a Trimtab API applied or taken back: one request, the answer as the API gave it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from pydantic import ValidationError

from controlplane.model.errors import InvalidSpec, Refused
from controlplane.model.tuning_apply import Applied

_ANSWER_BYTES_MAX = 2**20
_TIMEOUT_S = 60.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token goes to the server that was named, and to no other."""

    def redirect_request(self, *_: Any) -> None:
        return None


def applied_by(server: str, job: str, action: str, body: Mapping[str, Any], token: str | None) -> Applied:
    """Raises InvalidSpec for an address or a token that cannot be used, Refused with the API's own words."""
    parts = urlsplit(server)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidSpec("is no address", field="--server", value=server, limit="http://... or https://...")
    if not token or not token.isascii() or not token.isprintable():
        raise InvalidSpec(
            "a token is needed",
            field="TRIMTAB_TOKEN",
            hint="kubectl create token ME --audience trimtab --audience https://kubernetes.default.svc.cluster.local (docs/api.md)",
        )
    sent = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
    request = urllib.request.Request(  # noqa: S310 - http and https only: looked at above
        f"{server.rstrip('/')}/v1/tuning-jobs/{quote(job, safe='')}/{action}",
        data=sent,
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT_S) as answer:
            return Applied.model_validate_json(answer.read(_ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as error:
        with error:
            raise _refused(error.code, error.read(_ANSWER_BYTES_MAX)) from None
    except (OSError, ValidationError) as error:
        reason = "its answer cannot be read" if isinstance(error, ValidationError) else str(error)
        raise Refused(f"the API does not answer: {reason}", field="--server", value=server) from None


def _refused(status: int, body: bytes) -> Refused:
    try:
        problem = json.loads(body)
        detail, hint = str(problem["detail"]), problem.get("hint")
        # Most details end with the hint already.
        return Refused(detail, hint=None if hint and hint in detail else hint, code=str(problem["code"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        return Refused(f"the API answered with HTTP {status}", code="Refused")
