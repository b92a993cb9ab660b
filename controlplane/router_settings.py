"""Which routers an installation has: `TRIMTAB_ROUTERS`, a JSON object by router name.

A router that Trimtab starts needs an image, `{"sglang-router": {"image": "registry/router:1"}}`; the inference extension
needs a gateway and a domain, `{"gateway-inference-extension": {"gateway": "NAMESPACE/NAME", "domain": "llm.example"}}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, get_args

from controlplane.model.errors import InvalidSpec
from controlplane.model.routers import InstalledRouter, RouterName

VARIABLE = "TRIMTAB_ROUTERS"
_EXTENSION: RouterName = "gateway-inference-extension"
_NAMES: tuple[RouterName, ...] = tuple(name for name in get_args(RouterName) if name != "service")
_BYTES_MAX = 65_536
_TEXT_MAX = 512
_GATEWAY = re.compile(r"[a-z0-9][-a-z0-9.]*/[a-z0-9][-a-z0-9.]*")
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def routers_of(env: Mapping[str, str]) -> dict[RouterName, InstalledRouter]:
    """The routers there are. Raises InvalidSpec naming the variable and the field in it."""
    text = env.get(VARIABLE, "").strip()
    if not text:
        return {}
    try:
        data = json.loads(text[: _BYTES_MAX + 1])
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(f"no JSON: {error}", field=VARIABLE, value=text[:200], limit="a JSON object") from error
    if not isinstance(data, dict):
        raise InvalidSpec("not an object by router name", field=VARIABLE, value=text[:200], limit=", ".join(_NAMES))
    found: dict[RouterName, InstalledRouter] = {}
    for name, said in data.items():
        known = next((router for router in _NAMES if router == name), None)
        if known is None:
            raise InvalidSpec(f"{name!r} is no router", field=VARIABLE, value=str(name)[:80], limit=", ".join(_NAMES))
        if said:  # an empty entry: not installed
            found[known] = _router(known, said)
    return found


def _router(name: RouterName, said: Any) -> InstalledRouter:
    fields = ("gateway", "domain") if name == _EXTENSION else ("image", "serviceAccount")
    needed = fields if name == _EXTENSION else ("image",)
    texts = isinstance(said, dict) and all(isinstance(text, str) and len(text) <= _TEXT_MAX for text in said.values())
    if not texts or not set(said) <= set(fields):
        raise InvalidSpec(
            "cannot be read", field=f"{VARIABLE}.{name}", value=str(said)[:200], limit=f"texts: {', '.join(fields)}"
        )
    for field in needed:
        if not said.get(field):
            raise InvalidSpec(
                f"{field} is missing", field=f"{VARIABLE}.{name}.{field}", hint="give it, or leave it out"
            )
    if name != _EXTENSION:
        account = said.get("serviceAccount") or InstalledRouter().service_account
        return InstalledRouter(image=said["image"], service_account=account)
    for field, pattern, form in (("gateway", _GATEWAY, "NAMESPACE/NAME"), ("domain", _DOMAIN, "a DNS name")):
        if pattern.fullmatch(said[field]) is None:
            raise InvalidSpec(f"is not {form}", field=f"{VARIABLE}.{name}.{field}", value=said[field], limit=form)
    return InstalledRouter(gateway=said["gateway"], domain=said["domain"])
