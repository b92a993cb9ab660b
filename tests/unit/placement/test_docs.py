"""The pages that explain placement and node facts say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from operators.placement import Reason
from operators.pools.mapping import TABLE

DOCS = Path(__file__).parents[3] / "docs"
KUEUE = {
    "Misconfigured",
    "NoMatchingFlavor",
    "Suspended",
    "ExceedsMaxQuota",
    "WaitingForQuota",
    "TopologyPlacementFailed",
}


def rows(page: str, columns: int) -> list[list[str]]:
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if len(row) == columns and not set(row[0]) <= {"-"}][1:]


def test_every_reason_is_explained_in_the_order_of_the_checks() -> None:
    table = [(row[0].strip("`"), row[1]) for row in rows("placement-reasons.md", 5)]
    assert [name for name, _ in table] == [reason.value for reason in Reason]
    assert {name for name, word in table if word == "Kueue"} == KUEUE


def test_reasons_are_fit_for_a_condition() -> None:
    assert all(re.fullmatch(r"[A-Z][A-Za-z]+", reason) for reason in Reason)


def test_the_table_of_node_facts_is_the_one_in_use() -> None:
    expected = [[s.fact, s.kind, f"`{s.key}`", s.reading, s.by] for s in TABLE]
    assert rows("node-facts.md", 5) == expected, "regenerate the table: python -m operators.pools.mapping"
