"""`--metrics AFTER,before=..,closed=..`: pages and the load that each of them saw."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from controlplane.cli.page_options import read_pages

SHARED = {"model": "m", "arrivals": {"closed": 1}, "isl": 64}


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    found = [str(tmp_path / name) for name in ("a.txt", "b.txt", "c.txt", "odd,closed=3.txt")]
    for name in found:
        Path(name).write_text("")
    return found


def test_each_page_has_its_own_load(names: list[str]) -> None:
    a, b, c, _ = names
    one, two, three = read_pages([f"{a},closed=4", f"{b},before={a},rate=2.5,isl=128,requests=50", c], [])
    assert (one.after, one.before) == (Path(a), None)
    assert one.case(SHARED) == {"model": "m", "arrivals": {"closed": 4}, "isl": 64}
    assert (two.after, two.before) == (Path(b), Path(a))
    assert two.case(SHARED) == {"model": "m", "arrivals": {"poisson": 2.5}, "isl": 128, "requests": 50}
    assert three.case(SHARED) == SHARED
    assert SHARED["arrivals"] == {"closed": 1}


def test_pages_before_in_order(names: list[str]) -> None:
    a, b, c, odd = names
    found = read_pages([b, f"{c},before={b}", odd], [Path(a), Path(c)])
    assert [pages.before for pages in found] == [Path(a), Path(b), Path(c)]
    assert found[2].after == Path(odd)
    with pytest.raises(click.UsageError, match="1 pages of --metrics-before for 2 of --metrics"):
        read_pages([b, c], [Path(a)])
    with pytest.raises(click.UsageError, match="for 0 of --metrics"):
        read_pages([], [Path(a)])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("closed=four", "closed='four' is no number"),
        ("clients=4", "'clients' is none of before, closed"),
        ("closed=4,rate=2", "not both"),
        ("rate=1,poisson=2", "poisson stands twice"),
        ("before=nowhere.txt", "no file 'nowhere.txt'"),
        ("", "none of before"),
    ],
)
def test_mistakes_name_the_word(names: list[str], words: str, says: str) -> None:
    with pytest.raises(click.BadParameter, match=says):
        read_pages([f"{names[0]},{words}"], [])
