"""The page of reasons and the code name the same words."""

from __future__ import annotations

import re
from pathlib import Path

from operators.serving.reasons import Reason

PAGE = Path(__file__).parents[3] / "docs" / "serving-controller.md"


def test_every_reason_is_explained_and_no_other() -> None:
    told = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8").split("## Reasons")[1], re.MULTILINE)
    assert sorted(told) == sorted(reason.value for reason in Reason)
