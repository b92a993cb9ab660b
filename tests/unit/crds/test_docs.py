"""docs/resources.md names every rule's field, every column and every name of the resources."""

from pathlib import Path

import pytest

from operators.crds.definitions import all_definitions
from operators.crds.rules import POOL, SERVING, Rule
from operators.crds.tuning import TUNING

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "resources.md").read_text()


@pytest.mark.parametrize("rule", [*SERVING, *POOL, *TUNING], ids=lambda rule: f"{rule.path}{rule.field or ''}")
def test_every_rule_is_on_the_page(rule: Rule) -> None:
    path, field = rule.path, rule.field or ""
    if path.startswith("spec.slo"):
        field = ""
    if path.startswith("spec.roles."):
        path = "spec.explicit." + path.split(".", 3)[3]  # the page says it once for all choices
    assert f"`{path + field or 'metadata.name'}`" in PAGE


def test_names_and_columns_are_on_the_page() -> None:
    for definition in all_definitions().values():
        names, version = definition["spec"]["names"], definition["spec"]["versions"][0]
        for word in (names["kind"], *names["shortNames"], *names["categories"], version["name"]):
            assert word in PAGE
        narrow = [c["name"] for c in version["additionalPrinterColumns"] if not c.get("priority")]
        wide = [c["name"] for c in version["additionalPrinterColumns"] if c.get("priority")]
        assert f"| {', '.join(narrow)} |" in PAGE
        assert ", ".join(wide) in PAGE
