"""Where weights come from: `pvc:CLAIM[/PATH]`, `image:PATH`, `hf:ORG/REPO[@REVISION]`. Nothing else is accepted."""

import re
from dataclasses import dataclass
from typing import Literal

from controlplane.model.errors import InvalidSpec

SCHEMES = "pvc:CLAIM/PATH, image:/PATH, hf:ORG/REPO[@REVISION]"
MODEL_MOUNT = "/model"

_CLAIM = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*/?")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed source. `model` is what the engine is told: a path inside the pod, or a repository id."""

    scheme: Literal["pvc", "image", "hf"]
    model: str
    claim: str | None = None
    revision: str | None = None


def parse(text: str, *, field: str = "spec.model.source") -> Source:
    """Parse a source. Raises InvalidSpec for another scheme, a path that leaves its root, or a malformed name."""
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in ("pvc", "image", "hf"):
        raise InvalidSpec(
            "unknown source scheme",
            field=field,
            value=text,
            limit=SCHEMES,
            hint="host paths and URLs are not accepted: put the weights on a claim or into the engine image",
        )
    if scheme == "pvc":
        claim, _, path = rest.partition("/")
        _match(_CLAIM, claim, text, field, "claim")
        if path:
            _match(_PATH, path, text, field, "path")
        return Source("pvc", f"{MODEL_MOUNT}/{path}".rstrip("/"), claim=claim)
    if scheme == "image":
        if not rest.startswith("/"):
            raise InvalidSpec("the path must be absolute", field=field, value=text, limit="image:/PATH")
        _match(_PATH, rest[1:], text, field, "path")
        return Source("image", rest.rstrip("/"))
    repo, at, revision = rest.partition("@")
    _match(_REPO, repo, text, field, "repository")
    if at:
        _match(_REVISION, revision, text, field, "revision")
        if ".." in revision:
            raise InvalidSpec("not a revision name", field=field, value=text, limit="hf:ORG/REPO[@REVISION]")
    return Source("hf", repo, revision=revision or None)


def _match(pattern: re.Pattern[str], part: str, text: str, field: str, what: str) -> None:
    if pattern.fullmatch(part) is None:
        raise InvalidSpec(
            f"not a {what}",
            field=field,
            value=text,
            limit=SCHEMES,
            hint="a path may hold letters, digits and ._+-, and no segment may start with a dot"
            if what == "path"
            else None,
        )
