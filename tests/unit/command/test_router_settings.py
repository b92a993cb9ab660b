"""TRIMTAB_ROUTERS: what is read, and that everything wrong names the field in it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.model.errors import InvalidSpec
from controlplane.router_settings import VARIABLE, routers_of

EXTENSION = {"gateway": "gateways/inference", "domain": "llm.example"}


def read(data: Any) -> Any:
    return routers_of({VARIABLE: data if isinstance(data, str) else json.dumps(data)})


def test_nothing_said_is_nothing_installed() -> None:
    assert routers_of({}) == read("") == read({}) == read({"sglang-router": None}) == {}


def test_routers_are_read_with_their_default_account() -> None:
    found = read({"sglang-router": {"image": "r/s:1"}, "gateway-inference-extension": EXTENSION})
    assert found["sglang-router"].image == "r/s:1"
    assert found["sglang-router"].service_account == "trimtab-router"
    assert found["gateway-inference-extension"].gateway == "gateways/inference"


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ("{", VARIABLE),
        ("[" * 100_000, VARIABLE),
        ([], VARIABLE),
        ({"nginx": {"image": "a"}}, VARIABLE),
        ({"service": {"image": "a"}}, VARIABLE),
        ({"sglang-router": "r/s:1"}, f"{VARIABLE}.sglang-router"),
        ({"sglang-router": {"image": 1}}, f"{VARIABLE}.sglang-router"),
        ({"sglang-router": {"image": "a", "colour": "b"}}, f"{VARIABLE}.sglang-router"),
        ({"sglang-router": {"serviceAccount": "a"}}, f"{VARIABLE}.sglang-router.image"),
        ({"gateway-inference-extension": {"gateway": "a/b"}}, f"{VARIABLE}.gateway-inference-extension.domain"),
        (
            {"gateway-inference-extension": {**EXTENSION, "gateway": "b"}},
            f"{VARIABLE}.gateway-inference-extension.gateway",
        ),
        (
            {"gateway-inference-extension": {**EXTENSION, "domain": "a b"}},
            f"{VARIABLE}.gateway-inference-extension.domain",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_read_names_its_field(data: Any, field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        read(data)
    assert caught.value.field == field
