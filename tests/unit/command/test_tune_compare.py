"""`trimtab tune compare`: words, exit codes, and what is refused."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.model.errors import InvalidSpec, TrimtabError
from tests.unit.command.tune_calls import QUIET, call, command_job

PROGRAM = (
    "import sys; micro = {micro}; seed = {seed} % 7; wrong = micro > 90 and sys.exit(3); "
    "print('step_ms=%f' % (100 / micro * (1 + seed / 50))); print('mb=%f' % micro)"
)


def job(**changes: Any) -> dict[str, Any]:
    return command_job(PROGRAM, **changes)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRIMTAB_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job()))
    return tmp_path


def compared(*arguments: str) -> tuple[int, dict[str, Any]]:
    ran = call("compare", *arguments, "-o", "json", "--runs-max", "3", *QUIET)
    assert ran.stdout, (ran.output, ran.exception)
    return ran.exit_code, json.loads(ran.stdout)


@pytest.mark.parametrize(
    ("new", "old", "code", "word"),
    [
        ("micro=4", "micro=2", 0, "faster"),
        ("micro=2", "micro=4", 1, "slower"),
        ("micro=3", "micro=3", 0, "no evidence"),
        ("micro=99", "micro=3", 1, "broken"),
    ],
)
def test_settings_are_measured_in_pairs(here: Path, new: str, old: str, code: int, word: str) -> None:
    found = compared(new, old, "job.yaml")
    assert found[0] == code and found[1]["verdict"] == word, found
    if word == "broken":
        assert "status 3" in found[1]["message"]
    else:
        assert len(found[1]["pairs"]) == found[1]["gains"][0]["gainPct"]["runs"] == 3


def test_nothing_is_said_where_the_old_one_does_not_work(here: Path) -> None:
    ran = call("compare", "micro=3", "micro=99", "job.yaml", *QUIET)
    assert ran.exit_code == 3 and "does not work" in ran.stderr


def test_winners_of_jobs_and_bundles(here: Path) -> None:
    for name in ("one", "two"):
        assert call("run", "job.yaml", "--name", name, *QUIET).exit_code == 0
        assert call("bundle", name).exit_code == 0
    code, found = compared("two", "one")
    assert code == 0 and found["verdict"] == "no evidence"
    assert compared("one", "micro=1", "job.yaml")[1]["verdict"] == "faster"
    code, found = compared("one.tar.gz", "two.tar.gz#baseline")
    assert (code, found["verdict"], found["pairs"]) == (0, "faster", None) and "not side by side" in found["message"]
    assert "of one job" not in found["message"]
    assert "both are of one job" in compared("one.tar.gz", "one.tar.gz#baseline")[1]["message"]
    assert compared("two.tar.gz#baseline", "one.tar.gz")[0] == 1
    with tarfile.open(here / "one.tar.gz") as tar:
        rows = tar.extractfile("one/measurements.json")
        assert rows is not None
        (here / "runs.json").write_bytes(rows.read())
    assert compared("runs.json", "runs.json", "--objective", "mb")[1]["verdict"] == "no evidence"
    elsewhere = json.loads((here / "runs.json").read_text())
    for row in elsewhere:
        row["measurement"]["host"] = "another machine"
    (here / "elsewhere.json").write_text(json.dumps(elsewhere))
    for arguments, words in (
        (("runs.json", "elsewhere.json", "--objective", "mb"), "hardware differ"),
        (("runs.json", "runs.json", "--objective", "nothing"), "was not measured"),
        (("job.yaml", "job.yaml"), "bundle"),
    ):
        refused = call("compare", *arguments)
        assert isinstance(refused.exception, InvalidSpec) and words in str(refused.exception), refused.output


def test_bad_input(here: Path) -> None:
    mixed = call("compare", "micro=1", "job.yaml", *QUIET)
    assert mixed.exit_code == 2 and "another such file" in mixed.stderr
    unknown = call("compare", "nojob", "micro=1", "job.yaml", *QUIET)
    assert isinstance(unknown.exception, TrimtabError) and "nojob" in str(unknown.exception)
    for word in ("micro=[", "micro=.inf", "micro=2026-13-45", "micro=null", "=1"):
        assert isinstance(call("compare", word, "micro=1", "job.yaml").exception, InvalidSpec), word
    engine = ("--engine", "openvino", "--model", "/m", "--objective", "output_tokens_per_s")
    assert isinstance(call("compare", "a=1", "default", *engine).exception, TrimtabError)
    (here / "bad.tar.gz").write_bytes(b"nothing")
    assert isinstance(call("compare", "bad.tar.gz", "bad.tar.gz").exception, InvalidSpec)
