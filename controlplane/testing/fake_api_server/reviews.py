"""What the fake API server says about callers: no RBAC, a table of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TOKENS = "authentication.k8s.io/v1/tokenreviews"
_ACCESS = "authorization.k8s.io/v1/subjectaccessreviews"


@dataclass(frozen=True, slots=True)
class FakeReviews:
    """`users`: user by token. Whoever stands there may do everything, everybody else nothing."""

    users: Mapping[str, str]

    def answer(self, collection: str, review: Mapping[str, Any]) -> dict[str, Any] | None:
        """The review with its status; None for what is no review."""
        spec = review.get("spec", {})
        if collection == _TOKENS:
            user = self.users.get(spec.get("token", ""))
            status: dict[str, Any] = {"authenticated": user is not None}
            if user is not None:
                status |= {"user": {"username": user}, "audiences": spec.get("audiences", [])}
        elif collection == _ACCESS:
            status = {"allowed": spec.get("user") in self.users.values()}
        else:
            return None
        return {**review, "status": status}
