"""The command, exports, what-ifs and the day: what a user types and what comes out."""

import json

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from controlplane.catalog import load
from controlplane.cli.plan import plan as plan_command
from controlplane.cli.plan_traffic import without_silenced
from controlplane.main import cli
from controlplane.model.errors import InvalidSpec, UnknownName, Unsupported
from controlplane.model.plans import Allowed, Lengths, Workload
from controlplane.model.resource import ObjectMeta
from controlplane.model.serving import LatencyTarget, ServingDeployment, ServingDeploymentSpec, Slo
from operators.serving.validate import validate
from tests.unit.tuner.planner.fakes import FakePieces, pool, request
from tuner.serving.calibration.parameters import dump_calibration, load_calibration
from tuner.serving.planner import Planner
from tuner.serving.planner.daily import daily_plan, over_day
from tuner.serving.planner.export import launch_lines, manifest
from tuner.serving.planner.pooltext import parse_pool
from tuner.serving.planner.whatif import changed, difference

CASE = ["serving", "--model", "llama-3.1-70b", "--pool", "h100=h100:32", "--rate", "8", "--input", "1024",
        "--output-tokens", "256", "--ttft-p95", "1000", "--tpot-p95", "50", "--engine", "vllm"]  # fmt: skip


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr("tuner.serving.planner.standard.StandardPieces", lambda **_: FakePieces())
    return lambda *words: CliRunner().invoke(plan_command, [*CASE, *words], catch_exceptions=False)


def test_the_command_ranks_and_explains(run):
    said = run()
    assert said.exit_code == 0
    assert "requests/s per accelerator" in said.stdout and "why: 4 accelerators" in said.stdout
    assert "why not:" in said.stdout and "weighed" in said.stdout


def test_the_columns_are_explained_under_the_table(run):
    header, *rest = run().stdout.splitlines()
    assert "J/token" in header and "GB/acc" in header
    (said,) = [line for line in rest if line.startswith("score: ")]
    assert "attained: " in said and "interval of the mean" in said
    assert "unknown" in rest[0], "the figures that these pieces do not know"


def test_json_and_yaml_are_the_same_plan(run):
    as_json, as_yaml = json.loads(run("-o", "json").stdout), yaml.safe_load(run("-o", "yaml").stdout)
    for each in (as_json, as_yaml):
        each.pop("elapsedS"), each.pop("cpuS")
    assert as_json == as_yaml and as_json["best"][0]["roles"][0]["choice"]["engine"] == "vllm"


def test_what_ifs_and_the_day_are_part_of_one_document(run, tmp_path):
    trace = tmp_path / "day.jsonl"
    trace.write_text("".join(json.dumps({"arrival_s": float(i), "isl": 10, "osl": 10}) + "\n" for i in range(200)))
    words = ("--what-if", "tpot-p95=40", "--what-if", "rate=20", "--daily", str(trace))
    as_json, as_yaml = json.loads(run("-o", "json", *words).stdout), yaml.safe_load(run("-o", "yaml", *words).stdout)
    assert [item["change"] for item in as_json["whatIf"]] == ["tpot-p95=40", "rate=20"]
    assert len(as_json["whatIf"][0]["powerW"]) == 2 and as_json["daily"]["steps"][0]["replicas"] >= 1
    assert as_json["best"] and as_yaml["whatIf"] == as_json["whatIf"] and as_yaml["daily"] == as_json["daily"]


def test_an_export_has_nothing_beside_it(run):
    said = run("--export", "manifest", "--what-if", "rate=20")
    assert said.exit_code == 2 and "--what-if" in said.stderr and not said.stdout


def test_a_request_file_takes_options_on_top(run, tmp_path):
    file = tmp_path / "request.yaml"
    file.write_text(yaml.safe_dump(request(top=1).model_dump(mode="json", by_alias=True, exclude_none=True)))
    said = CliRunner().invoke(plan_command, ["serving", "-f", str(file), "-o", "json", "--top", "2"])
    assert said.exit_code == 0, said.output
    assert len(json.loads(said.stdout)["best"]) == 2


def test_a_whole_answer_is_asked_again(run, tmp_path):
    file = tmp_path / "answer.json"
    file.write_text(run("-o", "json").stdout)
    said = CliRunner().invoke(plan_command, ["serving", "-f", str(file), "-o", "json"], catch_exceptions=False)
    assert json.loads(said.stdout)["request"] == json.loads(file.read_text())["request"]


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("--arrivals", "gamma"), "--arrivals"),
        (("--source", "nonsense"), "--source"),
        (("--name", "Bad_Name"), "--name"),
        (("--pool", "a=h100:8,price=nan"), "pools[1].pricePerAcceleratorHour"),
    ],
)
def test_a_word_that_cannot_be_meant_is_refused_before_planning(run, words, field):
    with pytest.raises(InvalidSpec) as caught:
        run(*words)
    assert caught.value.field == field


def test_a_number_in_a_request_file_is_named_as_elsewhere(tmp_path):
    asked = request().model_dump(mode="json", by_alias=True, exclude_none=True)
    asked["pools"][0]["pricePerAcceleratorHour"] = -1
    file = tmp_path / "request.yaml"
    file.write_text(yaml.safe_dump(asked))
    with pytest.raises(InvalidSpec) as caught:
        CliRunner().invoke(plan_command, ["serving", "-f", str(file)], catch_exceptions=False)
    assert caught.value.field == "pools[0].pricePerAcceleratorHour"


def test_nothing_that_keeps_the_promise_ends_with_1_and_says_what_comes_nearest(run):
    said = run("--tpot-p95", "1")
    assert said.exit_code == 1
    assert "No deployment on these pools keeps the promise" in said.stdout and "BestEffort" in said.stdout


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm-serve"])
def test_a_manifest_is_what_the_operator_accepts(engine):
    answer = Planner(pieces=FakePieces()).plan(request(allowed=Allowed(engines=[engine])))
    model = load().models["llama-3.1-70b"]
    for candidate in answer.best:
        made = manifest(candidate, answer.request, model, None, None)
        deployment = ServingDeployment(
            metadata=ObjectMeta(name=made["metadata"]["name"], namespace="default"),
            spec=ServingDeploymentSpec.model_validate(made["spec"]),
        )
        assert [str(error) for error in validate(deployment, load())] == []
    assert made["spec"]["model"]["cache"]["sizeLimit"].endswith("Gi")  # 141 GB of weights


def test_command_lines_carry_shape_and_settings(run):
    said = run("--export", "vllm").stdout
    assert "vllm serve meta-llama/Llama-3.1-70B" in said
    assert "--tensor-parallel-size 4" in said and "--max-num-seqs 256" in said and "--max-num-batched-tokens" in said
    answer = Planner(pieces=FakePieces()).plan(request(allowed=Allowed(engines=["sglang"])))
    lines = launch_lines(answer.best[0], load().models["llama-3.1-70b"], "pvc:weights/llama", load())
    assert any("--model-path /model/llama" in line and "--chunked-prefill-size" in line for line in lines)


def test_manifest_export_is_yaml_for_kubectl(run):
    made = yaml.safe_load(run("--export", "manifest", "--name", "chat").stdout)
    assert made["kind"] == "ServingDeployment" and made["metadata"]["name"] == "chat"
    assert made["spec"]["explicit"]["choices"][0]["pools"] == ["h100"]


def test_exporting_where_there_is_no_plan_says_why(run):
    with pytest.raises(Unsupported):
        run("--tpot-p95", "1", "--export", "manifest")


def test_a_pool_on_the_command_line():
    assert parse_pool("a=h100:8,price=2.5,per-node=4,nic=ib-ndr-400,nics=8,cap=500", field="--pool") == {
        "name": "a", "accelerator": "h100-sxm-80gb", "free": 8, "price_per_accelerator_hour": 2.5, "per_node": 4,
        "nic": "ib-ndr-400", "nics_per_node": 8, "power_cap_w": 500.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "error"),
    [("h100", InvalidSpec), ("a=h100", InvalidSpec), ("a=h100:x", InvalidSpec), ("a=h100:8,cost=2", UnknownName),
     ("a=h100:8,price=cheap", InvalidSpec), ("a=nothing-like-it:8", UnknownName)],
)  # fmt: skip
def test_a_pool_written_wrong(text, error):
    with pytest.raises(error) as caught:
        parse_pool(text, field="--pool")
    assert caught.value.field == "--pool"


def test_what_is_missing_is_said():
    said = CliRunner().invoke(plan_command, ["serving", "--pool", "a=h100:8", "--rate", "1"])
    assert said.exit_code == 2 and "--model" in said.output
    said = CliRunner().invoke(plan_command, ["serving", "--model", "qwen3-8b", "--pool", "a=h100:8"])
    assert said.exit_code == 2 and "--rate" in said.output


def test_everything_that_is_missing_is_said_at_once():
    said = CliRunner().invoke(plan_command, ["serving"])
    assert said.exit_code == 2 and all(word in said.output for word in ("--model", "--pool", "--rate", "--closed"))
    said = CliRunner().invoke(plan_command, ["serving", "--model", "qwen3-8b", "--arrivals", "gamma", "--input", "64"])
    assert said.exit_code == 2 and all(word in said.output for word in ("--pool", "--rate", "--output-tokens"))
    assert "--input" not in said.output


@pytest.mark.parametrize(
    ("options", "field", "beside"),
    [
        (["--rate", "8", "--closed", "8"], "--rate", "--closed"),
        (["--closed", "8", "--trace", "t.jsonl"], "--trace", "--closed"),
        (["--trace", "t.jsonl", "--rate", "100", "--input", "7"], "--rate", "--trace"),
        (["--trace", "t.jsonl", "--input", "7"], "--input", "--trace"),
        (["--closed", "8", "--arrivals", "gamma"], "--arrivals", "--closed"),
    ],
)
def test_traffic_said_twice_names_both_options(options, field, beside):
    case = ["serving", "--model", "qwen3-8b", "--pool", "a=h100:8", *options]
    with pytest.raises(InvalidSpec, match=f"beside {beside}") as caught:
        CliRunner().invoke(plan_command, case, catch_exceptions=False)
    assert caught.value.field == field


@pytest.mark.parametrize(("option", "hint"), [("--cv", "--arrivals gamma"), ("--range", "--input and --output-tokens")])
def test_an_option_without_what_it_belongs_to_is_refused(option, hint):
    case = ["serving", "--model", "qwen3-8b", "--pool", "a=h100:8", "--rate", "8", option, "0.5"]
    with pytest.raises(InvalidSpec, match=hint) as caught:
        CliRunner().invoke(plan_command, case, catch_exceptions=False)
    assert caught.value.field == option


def test_a_rate_on_top_of_a_file_of_clients_is_not_dropped(tmp_path):
    file = tmp_path / "request.yaml"
    lengths = {"input": {"tokens": 64}, "output": {"tokens": 64}}
    file.write_text(yaml.safe_dump({"workload": {"arrivals": "closed", "concurrency": 8, **lengths}}))
    with pytest.raises(InvalidSpec, match="the file's closed arrivals"):
        CliRunner().invoke(plan_command, ["serving", "-f", str(file), "--rate", "8"], catch_exceptions=False)


def test_clients_on_top_of_a_file_with_a_rate_take_its_place():
    rate = {"ratePerSecond": 8, "input": {"tokens": 64}, "output": {"tokens": 64}}
    clients = {"arrivals": "closed", "concurrency": 4}
    assert without_silenced(rate, clients) == {"input": {"tokens": 64}, "output": {"tokens": 64}}
    assert without_silenced(rate, {"arrivals": "gamma", "cv": 2.0}) == rate
    assert without_silenced(rate, {"sharedPrefixTokens": 8}) == rate


def test_help_has_examples_and_imports_no_numpy():
    said = CliRunner().invoke(cli, ["plan", "serving", "--help"])
    assert said.exit_code == 0 and "--export manifest | kubectl apply -f -" in said.output


def test_what_ifs_change_one_thing():
    before = request(slo=Slo(ttft_ms=LatencyTarget(p95=1000), tpot_ms=LatencyTarget(p95=40)))
    assert changed(before, "ttft-p95=300").slo.ttft_ms.p95 == 300
    assert changed(before, "tpot-p99=60").slo.tpot_ms.p99 == 60
    assert [item.name for item in changed(before, "pool=b=l40s:8").pools] == ["h100", "b"]
    assert changed(before, "pool=h100=h100:64").pools[0].free == 64
    assert changed(before, "pool=b=l40s:8,price=0.9").pools[1].price_per_accelerator_hour == 0.9
    assert {item.power_cap_w for item in changed(before, "power-cap=500").pools} == {500.0}
    assert changed(before, "rate=16").workload.rate_per_second == 16
    for wrong in ("ttft-p95", "ttft-p95=soon", "pool=b", "pool=b=l40s:8,price=-1", "without-pool=h100"):
        with pytest.raises(InvalidSpec):
            changed(before, wrong)
    closed = Workload(arrivals="closed", concurrency=8, input=Lengths(tokens=64), output=Lengths(tokens=64))
    with pytest.raises(InvalidSpec, match="no rate to change"):
        changed(request(workload=closed), "rate=16")
    for unknown in ("colour=blue", "without-pool=other"):
        with pytest.raises(UnknownName):
            changed(before, unknown)


@pytest.mark.parametrize("wrong", ["ttft-p95=abc", "rate=0", "nothing", "pool=b=l40s:8,price=-1", "without-pool=h100"])
def test_the_change_that_cannot_be_made_is_named(run, wrong):
    with pytest.raises(InvalidSpec) as caught:
        run("--what-if", "rate=16", "--what-if", wrong)
    assert wrong in caught.value.message and "rate=16" not in str(caught.value)


def test_a_difference_names_both_winners():
    planner = Planner(pieces=FakePieces())
    before = planner.plan(request())
    after = planner.plan(changed(before.request, "rate=40"))
    found = difference("rate=40", before, after)
    assert "more" in found.message and found.accelerators == (before.best[0].accelerators, after.best[0].accelerators)
    same = difference("seed", before, before)
    assert same.message.startswith("the same deployment")
    worse = difference("tpot-p95=1", before, planner.plan(changed(before.request, "tpot-p95=1")))
    assert worse.after is None and "nothing keeps the promise then" in worse.message


def test_replicas_follow_the_day_and_start_ahead_of_it():
    rate = np.repeat([1.0, 10.0, 2.0], 3600)  # an hour each, requests/s
    at = np.cumsum(1 / np.repeat(rate, rate.astype(int)))
    found = over_day(at, goodput_per_replica=4.0, accelerators_per_replica=2, startup_s=600)
    assert [step.replicas for step in found.steps] == [1, 3, 1]
    assert found.steps[1].start_s <= 3600 - 600
    assert found.accelerator_hours < found.accelerator_hours_fixed
    assert 0 < found.late_share < 0.2
    at_once = over_day(at, goodput_per_replica=4.0, accelerators_per_replica=2, startup_s=0)
    assert at_once.late_share == 0 and at_once.accelerator_hours <= found.accelerator_hours


def test_a_day_from_a_trace_file(tmp_path):
    answer = Planner(pieces=FakePieces()).plan(request())
    trace = tmp_path / "trace.jsonl"
    trace.write_text("\n".join(json.dumps({"arrival_s": i / 5, "isl": 100, "osl": 10}) for i in range(2000)))
    found = daily_plan(answer, trace, startup_s=60)
    assert found.steps[0].replicas == 1 and "accelerator hours" in found.message
    with pytest.raises(InvalidSpec):
        daily_plan(answer, trace, startup_s=-1)
    with pytest.raises(Unsupported):
        daily_plan(answer.model_copy(update={"best": []}), trace, startup_s=60)


def test_a_trace_is_planned_for_with_its_own_arrivals(tmp_path):
    trace = tmp_path / "trace.jsonl"
    rows = [{"arrival_s": i * 0.2, "isl": 200 + i % 7, "osl": 20} for i in range(3000)]
    trace.write_text("\n".join(json.dumps(row) for row in rows))
    asked = request(workload={"arrivals": "trace", "trace": str(trace)})
    answer = Planner(pieces=FakePieces()).plan(asked)
    assert answer.best and "5 requests/s" in answer.best[0].message
    too_long = tmp_path / "long.jsonl"
    too_long.write_text("\n".join(json.dumps({"arrival_s": i, "isl": 200_000, "osl": 20}) for i in range(3)))
    with pytest.raises(InvalidSpec) as caught:
        Planner(pieces=FakePieces()).plan(request(workload={"arrivals": "trace", "trace": str(too_long)}))
    assert caught.value.field == "workload.trace"


def test_pools_of_a_different_node_size_say_how_pods_are_cut():
    answer = Planner(pieces=FakePieces()).plan(request(pools=[pool(per_node=2)]))
    choice = next(role.choice for item in answer.best for role in item.roles if role.choice.tensor_parallel == 4)
    assert choice.accelerators_per_pod == 2


def test_a_calibration_reaches_the_predictor(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(
        "tuner.serving.planner.standard.StandardPieces", lambda **pieces: given.update(pieces) or FakePieces()
    )
    mine = tmp_path / "mine.json"
    mine.write_text(dump_calibration(load_calibration().model_copy(update={"name": "mine"})))
    said = CliRunner().invoke(plan_command, [*CASE, "--calibration", str(mine)], catch_exceptions=False)
    assert said.exit_code == 0 and given["calibration"].name == "mine"
