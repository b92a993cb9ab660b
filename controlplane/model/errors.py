"""The error tree.

TrimtabError                what went wrong, which field, which value, the limit, the way out
├── InvalidSpec             a user's object cannot work as written
├── UnknownName             a name that the catalogue or the cluster does not know
├── Unsupported             understood, but not offered here
└── Refused                 understood and offered, but the guard or a precondition says no
"""

from typing import Any, ClassVar


class TrimtabError(Exception):
    """An error a person can act on. `code` is stable and machine-readable (UpperCamelCase, as a condition reason).

    `field` is the path in the user's object (`spec.explicit.choices[0].tensorParallel`), `value` what stood there,
    `limit` what would be allowed, `hint` the way out in one sentence.
    """

    code: ClassVar[str] = "Error"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        value: Any = None,
        limit: str | None = None,
        hint: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.value = value
        self.limit = limit
        self.hint = hint
        self.reason = code or type(self).code

    def __str__(self) -> str:
        parts = [f"{self.field}: {self.message}" if self.field else self.message]
        if self.limit is not None:
            parts.append(f"allowed: {self.limit}")
        if self.hint is not None:
            parts.append(self.hint)
        return "; ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """JSON form used by the API's problem documents and the CLI's `-o json`."""
        out: dict[str, Any] = {"code": self.reason, "message": self.message}
        for key in ("field", "value", "limit", "hint"):
            item = getattr(self, key)
            if item is not None:
                out[key] = item
        return out


class InvalidSpec(TrimtabError):
    code = "InvalidSpec"


class UnknownName(TrimtabError):
    code = "UnknownName"


class Unsupported(TrimtabError):
    code = "Unsupported"


class Refused(TrimtabError):
    code = "Refused"
