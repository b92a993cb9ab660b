"""What is rendered stays what was read and checked; the command lines are those the engines' own parsers take."""

import pytest

from operators.serving.validate import validate
from tests.unit.serving.cases import CATALOG, GOLDEN, GOLDENS, SETTINGS, Golden


@pytest.mark.parametrize("case", GOLDENS, ids=lambda case: case.name)
def test_rendering_matches_the_golden_file(case: Golden) -> None:
    assert case.text() == case.path.read_text(), "if intended: python -m tests.unit.serving.regold, and read the diff"


@pytest.mark.parametrize("case", GOLDENS, ids=lambda case: case.name)
def test_golden_deployments_are_valid(case: Golden) -> None:
    assert [str(error) for error in validate(case.deployment, CATALOG, SETTINGS)] == []


def test_no_golden_file_is_stale() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == {case.name for case in GOLDENS}


@pytest.mark.parametrize("case", GOLDENS, ids=lambda case: case.name)
def test_engines_that_never_ran_here_say_so(case: Golden) -> None:
    told = "Rendered, not run here." in case.path.read_text()
    assert told == (not case.name.startswith("openvino"))
