"""`trimtab plan training`: table, JSON, launch arguments, one line for each mistake."""

from __future__ import annotations

import json

from click.testing import CliRunner, Result

from controlplane.main import cli
from controlplane.model.errors import TrimtabError

ASKED = [
    *("--model", "layers=24,hidden=4096,heads=32,vocab=51200", "--seq", "2048", "--global-batch", "128"),
    *("--gpu", "a100", "--gpus", "32", "--nic", "hdr"),
]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["plan", "training", *ASKED, *arguments])


def test_the_table_has_plan_proof_and_reasons() -> None:
    result = run("--top", "2")
    assert result.exit_code == 0, result.output
    for text in ("32 x a100-sxm-80gb", "micro-batch", "Proven", "The winner's iteration:", "Why not:", "MFU"):
        assert text in result.output


def test_json_holds_the_question_the_proof_and_what_is_kept() -> None:
    data = json.loads(run("-o", "json", "--fix", "tp=4", "--fix", "recompute=full").output)
    assert data["proof"]["gap"] == 0.0
    assert data["proof"]["complete"]
    assert all(item["plan"]["tp"] == 4 and item["plan"]["recompute"] == "full" for item in data["best"])
    assert data["cluster"]["nics_per_node"] == 8


def test_the_winner_as_launch_arguments() -> None:
    result = run("--export", "megatron", "--fix", "tp=2")
    assert result.output.startswith("--tensor-model-parallel-size 2 \\\n")
    assert "--global-batch-size 128" in result.output


def test_what_cannot_be_is_an_error_with_a_way_out() -> None:
    result = run("--fix", "tp=3")
    assert isinstance(result.exception, TrimtabError) or result.exit_code != 0
    assert "tp=3" in (str(result.exception) + result.output)


def test_help_has_examples() -> None:
    result = CliRunner().invoke(cli, ["plan", "training", "--help"])
    assert "trimtab plan training --model gpt-3-175b" in result.output
    assert "--fix tp=8" in result.output
