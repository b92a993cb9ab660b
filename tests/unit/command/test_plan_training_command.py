"""`trimtab plan training`: table, JSON, launch arguments, one line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
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
    for text in ("32 x a100-sxm-80gb", "micro-batch", "Proven", "The winner's iteration", "exposed", "Why not:", "MFU"):
        assert text in result.output


def test_json_holds_the_question_the_proof_and_what_is_kept() -> None:
    data = json.loads(run("-o", "json", "--fix", "tp=4", "--fix", "recompute=full").output)
    assert data["proof"]["gap"] == 0.0
    assert data["proof"]["complete"]
    assert all(item["plan"]["tp"] == 4 and item["plan"]["recompute"] == "full" for item in data["best"])
    assert data["cluster"]["nics_per_node"] == 8


def test_the_winner_as_a_launch_command() -> None:
    result = run("--export", "megatron", "--tp", "2")
    assert result.exit_code == 0, result.output
    command = [line for line in result.output.split("\n") if not line.startswith("#")]
    assert any(line.startswith("  torchrun") or line.startswith("torchrun") for line in command[:2])
    assert "  --tensor-model-parallel-size 2 \\" in command
    assert "  --global-batch-size 128 \\" in command
    assert command[-2].strip() == "--max-position-embeddings 2048"


@pytest.mark.parametrize(("export", "text"), [("torchtitan", "--module"), ("deepspeed", '"zero_optimization"')])
def test_what_is_exported_says_the_framework(export: str, text: str) -> None:
    result = run("--export", export)
    assert result.exit_code == 0, result.exception
    assert text in result.output
    refused = run("--export", export, "--framework", "megatron-lm")
    assert "another" in str(refused.exception) or "plan with --framework" in str(refused.exception)


def test_warnings_stand_beside_an_export() -> None:
    result = run("--gpu", "mi300x", "--export", "megatron", "--tp", "1")
    assert any(line.startswith("warning: CDNA 3") for line in result.stderr.split("\n"))
    assert "warning: " not in result.stdout


def test_choices_have_options_of_their_own() -> None:
    plans = json.loads(run("-o", "json", "--tp", "2,4", "--recompute", "full", "--micro-batch", "1").output)["best"]
    assert plans
    for item in plans:
        assert item["plan"]["tp"] in (2, 4)
        assert (item["plan"]["recompute"], item["plan"]["micro_batch"]) == ("full", 1)


def test_prices_make_costs_and_yaml_is_the_same_answer() -> None:
    told = run("--price", "2", "--currency", "EUR", "--top", "1", "-o", "yaml").output
    data = yaml.safe_load(told)
    best = data["best"][0]
    assert best["cost_per_iteration"] == pytest.approx(32 * 2 * best["iteration_s"] / 3600)
    assert best["currency"] == "EUR"
    assert data == json.loads(run("--price", "2", "--currency", "EUR", "--top", "1", "-o", "json").output)
    assert "EUR" in run("--price", "2", "--currency", "EUR").output
    assert "cost of" not in run().output


def test_what_ifs_stand_beside_the_answer() -> None:
    told = run("--tp", "4", "--what-if", "gpus=64", "--what-if", "free=tp", "--what-if", "recompute=full").output
    for text in ("what if gpus=64", "more tokens per second", "what if free=tp", "what if recompute=full: "):
        assert text in told
    data = json.loads(run("-o", "json", "--fix", "optimizer_offload=none", "--what-if", "gpus=1").output)["what_if"]
    assert data[0]["after"] is None
    assert "lacks" in data[0]["message"]


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    where = tmp_path / "plan.html"
    result = run("--report", str(where), "--pp", "2")
    assert result.exit_code == 0, result.output
    text = where.read_text(encoding="utf-8")
    assert "Where the numbers come from" in text
    assert "pp=2" in text
    assert list(tmp_path.iterdir()) == [where]


def test_a_report_shows_what_stands_beside_the_answer(tmp_path: Path) -> None:
    where = tmp_path / "plan.html"
    result = run("--report", str(where), "--sizes", "--theoretical", "--what-if", "gpus=64", "--failures", "llama3")
    assert result.exit_code == 0, result.output
    page = where.read_text(encoding="utf-8")
    heads = [item.text for item in ElementTree.fromstring(page).iter("h2")]
    assert {"What if", "On fewer nodes", "Failures", "Theoretical"} <= set(heads)
    assert "gpus=64" in page


POOLS = ["--model", "layers=24,hidden=4096,heads=32,vocab=51200", "--seq", "2048", "--global-batch", "128",
         "--pool", "new=h100:16,nic=ndr", "--pool", "old=a100:32,nic=hdr,price=1.5"]  # fmt: skip


def test_pools_are_named_and_chosen_by_name() -> None:
    result = CliRunner().invoke(cli, ["plan", "training", *POOLS, "--pools", "old", "-o", "json", "--top", "1"])
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    assert (data["cluster"]["name"], data["cluster"]["nics_per_node"]) == ("old", 8)
    assert data["best"][0]["cost_per_iteration"] > 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([*POOLS, "--pools", "older"], "no such pool"),
        ([*POOLS, "--gpu", "h100"], "says the pool twice"),
        ([*POOLS, "--pools", "old", "--what-if", "gpuz=3"], "unknown change"),
        ([*POOLS, "--pools", "old", "--what-if", "gpus=-3"], "above 0"),
        ([*POOLS, "--pools", "old", "--what-if", "without-pool=x"], "no such pool"),
        (["--model", "llama-3.1-8b"], "--global-batch, --gpu, --gpus"),
        ([*POOLS, "--pools", "old", "--tp", "x"], "fix.tp"),
    ],
)
def test_mistakes_are_named_in_the_words_they_were_made_in(arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(cli, ["plan", "training", *arguments])
    assert result.exit_code != 0
    assert text in str(result.exception) + result.output


def test_what_cannot_be_is_an_error_with_a_way_out() -> None:
    result = run("--fix", "tp=3")
    assert isinstance(result.exception, TrimtabError) or result.exit_code != 0
    assert "tp=3" in (str(result.exception) + result.output)


def test_help_has_examples() -> None:
    result = CliRunner().invoke(cli, ["plan", "training", "--help"])
    assert "trimtab plan training --model gpt-3-175b" in result.output
    assert "--tp 8 --recompute none" in result.output


def test_theoretical_plans_and_sizes_are_shown_apart() -> None:
    told = run("--theoretical", "--sizes", "--tp", "2,4").output
    assert "Theoretical" in told
    assert "On fewer nodes" in told
    data = json.loads(run("-o", "json", "--theoretical", "--sizes", "--tp", "2,4").output)
    assert data["theoretical"]["bound_s"] <= data["best"][0]["iteration_s"]
    assert [item["accelerators"] for item in data["sizes"]] == [32, 16, 8]
    assert "theoretical" not in json.loads(run("-o", "json", "--tp", "4").output)


def test_two_pools_share_one_plan_and_failures_are_priced() -> None:
    asked = ["--model", "layers=12,hidden=4096,heads=32,vocab=51200", "--seq", "2048", "--global-batch", "64",
             "--pool", "new=a100:16,nic=hdr", "--pool", "old=v100-32:16,nic=edr", "--quiet"]  # fmt: skip
    result = CliRunner().invoke(cli, ["plan", "training", *asked, "--failures", "llama3"])
    assert result.exit_code == 0, result.output
    for text in ("Its stages:", "layers ", "Proven", "of the time trains", "spare nodes", "Planned anew"):
        assert text in result.output
    data = json.loads(CliRunner().invoke(cli, ["plan", "training", *asked, "--failures", "0.01", "-o", "json"]).output)
    assert 0.0 < data["failures"]["ettr"] < 1.0
    assert [pool["gpu"] for pool in data["cluster"]] == ["a100-sxm-80gb", "v100-sxm2-32gb"]


def test_the_network_between_unlike_pools_is_said_or_assumed() -> None:
    asked = ["--model", "layers=12,hidden=4096,heads=32,vocab=51200", "--seq", "2048", "--global-batch", "64",
             "--pool", "new=a100:16,nic=hdr", "--pool", "old=v100:16,nic=roce-100", "--quiet", "--pp", "2", "--tp", "2", "--dp", "8",
             "--schedule", "1f1b", "--precision", "fp16", "-o", "json"]  # fmt: skip
    runs = [CliRunner().invoke(cli, ["plan", "training", *asked, *more]).output for more in ([], ["--cross", "50"])]
    slow, fast = (json.loads(output)["best"][0] for output in runs)
    assert fast["iteration_s"] < slow["iteration_s"]
    assert any("Ethernet" in text for text in slow["warnings"])
    assert not any("Ethernet" in text for text in fast["warnings"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--fix", "micro_bach=1"), ("'micro_bach'", "did you mean micro_batch?")),
        (("--framework", "deepspeed"), ("did you mean megatron-deepspeed?",)),
        (("--fix", "vocab_parallel=vocab-2"), ("does not launch vocab_parallel=vocab-2", "--theoretical")),
        (("--schedule", "zb-h1"), ("does not launch schedule=zb-h1", "megatron-zero-bubble")),
        (("--fix", "optimizer_offload=nvme"), ("does not launch", "megatron-deepspeed")),
        (("--what-if", "tp=8,pb=2"), ("pb=2",)),
    ],
)
def test_what_cannot_be_chosen_says_what_can(arguments: tuple[str, ...], says: tuple[str, ...]) -> None:
    told = str(run(*arguments).exception)
    for text in says:
        assert text in told


def test_a_what_if_may_change_several_things() -> None:
    found = json.loads(run("--what-if", "tp=2,4,pp=4,gpus=64", "--top", "1", "-o", "json").output)["what_if"][0]
    assert found["accelerators"][1] == 64
    assert "pp 4" in found["after"]
    assert any(text in found["after"] for text in ("tp 2", "tp 4"))


@pytest.mark.parametrize("name", ["a100-80", "a100", "v100", "v100-32", "h100-80", "mi300x"])
def test_a_pool_knows_the_names_that_gpu_knows(name: str) -> None:
    arguments = [
        "plan",
        "training",
        *ASKED[:6],
        "--top",
        "1",
        "-o",
        "json",
        "--quiet",
        "--tp",
        "2",
        "--micro-batch",
        "1",
    ]
    one = CliRunner().invoke(cli, [*arguments, "--gpu", name, "--gpus", "8"])
    two = CliRunner().invoke(cli, [*arguments, "--pool", f"own={name}:8"])
    assert json.loads(one.stdout)["cluster"]["gpu"] == json.loads(two.stdout)["cluster"]["gpu"]


def test_json_says_where_ranks_sit_and_how_the_plan_is_started() -> None:
    best = json.loads(run("-o", "json", "--top", "1", "--tp", "2").output)["best"][0]
    assert sum(part["ranks"] for part in best["rank_map"]) == 32
    assert best["launch"]["framework"] == "megatron-lm"
    assert "--tensor-model-parallel-size 2" in best["launch"]["arguments"]
    assert [stage["layers"] for stage in best["stages"]] == [24 // best["plan"]["pp"]] * best["plan"]["pp"]
