"""A plan says which corrections its predictions were made with, in every form it is shown in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from controlplane.main import cli
from tests.unit.tuner.planner.fakes import FakePieces, request
from tuner.serving.calibration.parameters import digest_of, dump_calibration, load_calibration
from tuner.serving.planner import Planner

SHIPPED = load_calibration()
MINE = SHIPPED.model_copy(update={"name": "measured here", "effects": SHIPPED.effects[:3]})
QUESTION = ["--model", "llama-3.1-8b", "--pool", "a=a10g:1", "--rate", "1", "--input", "512", "--output-tokens", "32",
            "--engine", "vllm", "--top", "1"]  # fmt: skip


def ask(*words: str) -> str:
    said = CliRunner().invoke(cli, ["plan", "serving", *QUESTION, "--quiet", *words], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    return said.stdout


def test_shipped_or_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "mine.json"
    file.write_text(dump_calibration(MINE))
    shipped = json.loads(ask("-o", "json"))["calibration"]
    assert shipped == {"name": SHIPPED.name, "digest": digest_of(SHIPPED), "source": "shipped"}
    given = json.loads(ask("-o", "json", "--calibration", str(file)))["calibration"]
    assert given == {"name": "measured here", "digest": digest_of(MINE), "source": "given"}
    assert f"calibration: measured here (given, {digest_of(MINE)})" in ask("--calibration", str(file))
    assert "calibration:" not in ask()


def test_what_is_not_known_is_not_said() -> None:
    assert Planner(pieces=FakePieces()).plan(request()).calibration is None
