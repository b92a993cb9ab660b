"""An installation's calibration: the file when it can be used as a whole, the shipped one else, and what to say of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tuner.serving.calibration.installed import installed
from tuner.serving.calibration.parameters import MAX_FILE_BYTES, Effect, digest_of, dump_calibration, load_calibration

SHIPPED = load_calibration()
MINE = SHIPPED.model_copy(update={"name": "silicon-sample-1 + runs.jsonl", "effects": SHIPPED.effects[:3]})


@pytest.mark.parametrize("place", [None, "absent", "empty"])
def test_nothing_there_is_the_shipped_one_and_no_problem(place: str | None, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = installed(None if place is None else tmp_path / place)
    assert found.calibration is SHIPPED
    assert (found.used.source, found.used.name, found.used.problem) == ("shipped", SHIPPED.name, None)
    assert found.used.digest == digest_of(SHIPPED)


def test_a_file_and_a_folder_with_one(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(dump_calibration(MINE))
    for place in (file, tmp_path):
        found = installed(place)
        assert found.calibration == MINE
        assert (found.used.source, found.used.name, found.used.digest) == ("installed", MINE.name, digest_of(MINE))


def test_the_digest_is_of_what_it_says_not_of_the_layout(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(MINE.model_dump_json(indent=4))
    assert installed(file).used.digest == digest_of(MINE) != digest_of(SHIPPED)


def test_a_fit_has_the_digest_of_the_file_it_becomes(tmp_path: Path) -> None:
    labels = {"model": "m", "engine": "vllm", "accelerator": "a"}  # a file sorts them
    made = SHIPPED.model_copy(update={"effects": [Effect(when=labels, knob="decode", value=0.1, rows=3)]})
    file = tmp_path / "calibration.json"
    file.write_text(dump_calibration(made))
    assert installed(file).used.digest == digest_of(made)


def _put(tmp_path: Path, text: str | bytes) -> Path:
    (tmp_path / "calibration.json").write_bytes(text.encode() if isinstance(text, str) else text)
    return tmp_path


_BROKEN: dict[str, tuple[str | bytes, str]] = {
    "no JSON": ("{", "not a calibration"),
    "half a file": (dump_calibration(MINE)[: len(dump_calibration(MINE)) // 2], "not a calibration"),
    "one bad effect": (dump_calibration(MINE).replace('"knob": "', '"knob": "x', 1), "effects.0.knob"),
    "too large a number": (dump_calibration(MINE).replace('"value": ', '"value": 1e9, "was": ', 1), "effects.0.value"),
    "a band without an end": (dump_calibration(MINE).replace('"hi": ', '"hi": 1e308, "was": ', 1), "bands.0.hi"),
    "another version": (dump_calibration(MINE).replace('"version": 1', '"version": 2'), "version"),
    "a field of nowhere": (dump_calibration(MINE).replace('"name":', '"nmae":', 1), "n"),
    "no text": (b"\xff\xfe\x00", "cannot be read"),
    "deep": ("[" * 100_000, "not a calibration"),
    "too large a file": (" " * (MAX_FILE_BYTES + 1), "file too large"),
}


@pytest.mark.parametrize("case", _BROKEN)
def test_what_is_wrong_is_told_and_nothing_of_it_is_used(case: str, tmp_path: Path) -> None:
    text, said = _BROKEN[case]
    found = installed(_put(tmp_path, text))
    assert found.calibration is SHIPPED
    assert found.used.source == "shipped"
    assert found.used.problem is not None
    assert said in found.used.problem
    assert found.used.problem.endswith("the shipped calibration is used until it is replaced or removed")
    assert len(found.used.problem) <= 1024


def test_a_misnamed_key_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(dump_calibration(MINE))
    (tmp_path / "..data").mkdir()
    problem = installed(tmp_path).used.problem
    assert problem is not None
    assert "mine.json, but no calibration.json" in problem
    assert "..data" not in problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    _put(tmp_path, "{}").joinpath("calibration.json").chmod(0)
    assert "cannot be read" in str(installed(tmp_path).used.problem)
