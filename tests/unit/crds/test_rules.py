"""The rules say the same as the code that judges the same fields later, and each has an object that breaks it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.errors import InvalidSpec
from operators.crds.definitions import serving_deployment
from operators.crds.rules import DEPLOYMENT_NAME_MAX, POOL, SERVING, SOURCE_PATTERN, Rule, install
from operators.crds.tuning import TUNING
from operators.serving.names import NAME_MAX
from operators.serving.source import parse
from tests.unit.crds.bad_objects import BAD
from tests.unit.crds.bad_tuning import BAD_CHANGES, BAD_TUNING


@pytest.mark.parametrize(
    "rule", [*SERVING, *POOL, *TUNING], ids=lambda rule: f"{rule.path or 'root'}: {rule.message[:40]}"
)
def test_every_rule_has_an_object_that_breaks_it(rule: Rule) -> None:
    words = [bad.words for bad in (*BAD, *BAD_TUNING)]
    words += [said for _, field, said in BAD_CHANGES if field == f"{rule.path}{rule.field}"]
    assert any(said in rule.message or rule.message in said for said in words)


def test_the_longest_name_is_the_renderer_s() -> None:
    assert DEPLOYMENT_NAME_MAX == NAME_MAX


def _parses(source: str) -> bool:
    try:
        parse(source)
    except InvalidSpec:
        return False
    return True


_PIECES = st.sampled_from(
    [
        "pvc:",
        "image:",
        "hf:",
        "file:",
        "a",
        "A",
        "9",
        "/",
        "//",
        ".",
        "..",
        "-",
        "_",
        "+",
        "@",
        " ",
        "\n",
        "weights",
        "é",
    ]
)


@given(st.sampled_from(["", "pvc:", "image:/", "hf:"]), st.lists(_PIECES, max_size=8).map("".join))
def test_the_api_server_and_the_renderer_take_the_same_sources(scheme: str, rest: str) -> None:
    source = scheme + rest
    # `\Z` because Python's `$` also matches before a final newline; RE2's does not.
    by_rules = re.match(SOURCE_PATTERN.removesuffix("$") + r"\Z", source) is not None and ".." not in source
    # A revision or file with two dots inside a name parses, and the rule refuses it on purpose.
    assert by_rules == (_parses(source) and ".." not in source)


def test_a_rule_for_a_field_that_does_not_exist_is_an_error() -> None:
    schema = serving_deployment()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    with pytest.raises(KeyError):
        install(schema, (Rule("spec.nowhere", "true", "never"),))
