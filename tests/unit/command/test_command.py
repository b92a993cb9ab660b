"""`trimtab`: help and version answer without the clients and frameworks; settings say what is wrong."""

from __future__ import annotations

import json
import logging
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from controlplane.logs import JsonLines
from controlplane.main import cli
from controlplane.model.errors import InvalidSpec
from controlplane.settings import operator_settings

_HEAVY = ("aiohttp", "fastapi", "kubernetes", "msgspec", "numpy", "pydantic", "uvicorn", "uvloop")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["operator", "--help"],
        ["api", "--help"],
        ["predict", "serving", "--help"],
        ["simulate", "--help"],
        ["accuracy", "serving", "--help"],
        ["calibrate", "serving", "--help"],
        ["catalog", "--help"],
        ["tune", "--help"],
        ["tune", "run", "--help"],
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom controlplane.main import cli\n"
        f"try:\n    cli({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print([name for name in {_HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout.startswith("Usage:")


def test_every_command_is_listed_with_its_help() -> None:
    shown = CliRunner().invoke(cli, ["--help"]).output
    assert "operator" in shown
    assert "api" in shown
    for name in ("plan", "predict"):
        assert re.search(rf"^  {name} .*\n?.*training", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("models", "llama-3.1-70b"), ("accelerators", "h100-sxm-80gb"), ("nics", "ib-hdr-200"), ("engines", "vllm")],
)
def test_the_catalogue_is_listed(kind: str, name: str) -> None:
    listed = json.loads(CliRunner().invoke(cli, ["catalog", kind, "-o", "json"]).output)
    assert name in [item["name"] for item in listed]
    table = CliRunner().invoke(cli, ["catalog", kind]).output.splitlines()
    assert len(table) == len(listed) + 1
    assert any(line.startswith(f"{name} ") for line in table)


def test_the_commands_of_the_readme_have_options_that_exist() -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("    trimtab ")]
    assert {words[1] for words in lines} == {"plan", "predict", "tune"}
    for _, group, name, *options in lines:
        context = click.Context(cli)
        found = cli.get_command(context, group)
        assert isinstance(found, click.Group)
        command = found.get_command(context, name)
        assert command is not None
        command.make_context(name, options)


def test_version() -> None:
    assert CliRunner().invoke(cli, ["--version"]).output.startswith("trimtab ")


def test_unknown_command() -> None:
    answer = CliRunner().invoke(cli, ["operate"])
    assert answer.exit_code == 2
    assert "operate" in answer.output


def test_operator_settings_from_the_environment() -> None:
    settings = operator_settings(
        {
            "TRIMTAB_NAMESPACE": "trimtab-system",
            "TRIMTAB_PORT": "0",
            "TRIMTAB_LEADER_ELECTION": "false",
            "TRIMTAB_WORKERS": "3",
            "TRIMTAB_ENGINE_IMAGES": '{"openvino": "registry/engine:1", "vllm": ""}',
        }
    )
    assert (settings.process.namespace, settings.process.port, settings.workers) == ("trimtab-system", 0, 3)
    assert not settings.leader_election
    assert settings.engine_images == {"openvino": "registry/engine:1"}
    assert operator_settings({}).process.host == "127.0.0.1", "nothing listens to the outside unless told so"


def test_a_kubeconfig_that_is_not_there_costs_one_line(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "controlplane", "operator", "--kubeconfig", str(tmp_path / "nothing")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("trimtab: no kubeconfig at")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRIMTAB_PORT", "-1"),
        ("TRIMTAB_PORT", "99999"),
        ("TRIMTAB_PORT", "eighty"),
        ("TRIMTAB_WORKERS", "0"),
        ("TRIMTAB_WORKERS", "9" * 5_000),
        ("TRIMTAB_LEADER_ELECTION", "perhaps"),
        ("TRIMTAB_LOG_LEVEL", "loud"),
        ("TRIMTAB_ENGINE_IMAGES", "{"),
        ("TRIMTAB_ENGINE_IMAGES", '["a"]'),
        ("TRIMTAB_ENGINE_IMAGES", '{"vllm": 1}'),
        ("TRIMTAB_ENGINE_IMAGES", json.dumps({str(number): "image" for number in range(100)})),
    ],
)
def test_unusable_settings_name_the_variable_and_the_limit(name: str, value: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        operator_settings({name: value})
    assert caught.value.field == name
    assert caught.value.limit


def test_log_lines_are_json() -> None:
    record = logging.LogRecord("operators", logging.WARNING, __file__, 1, "%s pods\n", (3,), None)
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line)["message"] == "3 pods\n"
