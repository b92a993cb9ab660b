"""Answers: lines in, lines out; what must hold whatever the constants are."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from controlplane.model.errors import InvalidSpec
from tests.unit.tuner.training.cases import case, line
from tuner.training import batch
from tuner.training.constants import document
from tuner.training.predict import Predictor, predictor_of
from tuner.training.question import parse_case

ANSWER = {
    "id", "iteration_s", "lo", "hi", "tokens_per_s", "mfu", "hfu", "memory_bytes", "memory", "bubble",
    "exposed_comm_s", "energy_j", "energy_lo_j", "energy_hi_j", "energy_basis", "fits", "tight", "pattern", "warnings", "memory_lo_bytes",
    "memory_hi_bytes", "memory_limit_bytes",
}  # fmt: skip


def answers(*lines: Any) -> list[dict[str, Any]]:
    text = "\n".join(item if isinstance(item, str) else json.dumps(item) for item in lines)
    sink = io.StringIO()
    batch.run(io.BytesIO(text.encode()), sink, Predictor())
    return [json.loads(found) for found in sink.getvalue().splitlines()]


def seconds(**changes: Any) -> float:
    found: float = Predictor().answer(case(**changes))["iteration_s"]
    return found


def test_every_line_is_answered_in_order_and_a_bad_one_stops_nothing() -> None:
    found = answers(line(id="a"), "{", line(id=2, tp=3), {"id": [1]}, line(id=3))
    assert [item.get("id") for item in found] == ["a", None, 2, None, 3]
    assert set(found[0]) == ANSWER == set(found[4])
    assert found[1]["line"] == 2 and found[2]["error"]["field"] == "tp"
    assert found[3]["error"]["field"] == "id"


def test_the_interval_holds_the_prediction() -> None:
    found = answers(line())[0]
    assert found["lo"] < found["iteration_s"] < found["hi"]
    assert len(found["memory_bytes"]) == 4
    assert sum(part[0] for part in found["memory"].values()) == pytest.approx(found["memory_bytes"][0], abs=8)
    assert 0 < found["mfu"] <= found["hfu"] < 1 and 0 <= found["bubble"] < 1
    assert found["fits"] and not found["warnings"]


def test_what_does_not_fit_says_by_how_much() -> None:
    found = answers(line(tp=1, dp=8, cluster={"gpu": "v100-sxm2-16gb"}, precision="fp16"))[0]
    assert not found["fits"]
    assert "GiB more" in found["warnings"][0] and "Volta" in found["warnings"][1]


def test_more_bandwidth_never_takes_longer() -> None:
    for name in ("intra_gb_s", "inter_gb_s"):
        found = [seconds(cluster={name: rate}) for rate in (1, 10, 100, 1000)]
        assert found == sorted(found, reverse=True)


def test_a_power_cap_slows_the_step_by_less_than_its_share() -> None:
    capped = seconds(cluster={"power_cap_w": 200})
    assert seconds() < capped < 2 * seconds()


def test_a_file_of_constants_is_read_or_refused(tmp_path: Path) -> None:
    changed = {**document(), "links": {**document()["links"], "nvlink": {"value": 0.35}}}
    path = tmp_path / "constants.json"
    path.write_text(json.dumps(changed))
    assert predictor_of(path).answer(case())["iteration_s"] > seconds()
    for text in ("{}", "[", '{"intervals": 1}'):
        path.write_text(text)
        with pytest.raises(InvalidSpec, match="is no file of constants"):
            predictor_of(path)


def test_recomputation_costs_time_and_saves_memory() -> None:
    plain, full = (Predictor().answer(case(recompute=mode)) for mode in ("none", "full"))
    assert plain["iteration_s"] < full["iteration_s"] < 1.5 * plain["iteration_s"]
    assert max(plain["memory_bytes"]) > max(full["memory_bytes"])


def test_pools_alike_are_nearly_one_pool() -> None:
    """Mixed pools are stepped through, equal ones use the closed form, whose hops cost a little more."""
    cluster = line()["cluster"]
    half = {**cluster, "gpus": 32}
    halves = case(cluster=[half, half], stage_pools=[0, 0, 1, 1])
    assert Predictor().answer(halves)["iteration_s"] == pytest.approx(seconds(), rel=0.02)


def test_a_slower_pool_takes_longer_the_more_layers_it_has() -> None:
    def mixed(*layers: int) -> float:
        fast = {"gpu": "h100-sxm-80gb", "gpus": 32, "gpus_per_node": 8, "nic": "ib-hdr-200", "nics_per_node": 8}
        pools = [fast, {**fast, "gpu": "a100-sxm-80gb"}]
        found: float = Predictor().answer(case(cluster=pools, layers_per_stage=list(layers)))["iteration_s"]
        return found

    assert mixed(15, 15, 9, 9) < mixed(12, 12, 12, 12) < mixed(9, 9, 15, 15)


def test_the_same_answer_under_any_hash_seed() -> None:
    code = (
        "import io, sys\nfrom tuner.training import batch\nfrom tuner.training.predict import Predictor\n"
        "batch.run(io.BytesIO(sys.argv[1].encode()), sys.stdout, Predictor())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, json.dumps(line())], check=True, capture_output=True, text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("0", "1")
    }  # fmt: skip
    assert len(found) == 1


def test_cost_follows_prices_and_is_absent_without() -> None:
    asked = {
        "model": {"layers": 8, "hidden": 1024, "heads": 8, "vocab": 32000, "seq": 1024}, "global_batch": 32,
        "dp": 8, "cluster": {"gpu": "a100", "gpus": 8, "price_per_accelerator_hour": 1.8, "currency": "EUR"},
    }  # fmt: skip
    said = Predictor().answer(parse_case(asked))
    assert said["cost_per_iteration"] == pytest.approx(8 * 1.8 * said["iteration_s"] / 3600.0)
    assert said["cost_per_billion_tokens"] == pytest.approx(said["cost_per_iteration"] / (32 * 1024) * 1e9)
    assert said["currency"] == "EUR"
    for cluster, field in (
        ({"currency": "euro"}, "cluster.currency"),
        ({"price_per_accelerator_hour": -1}, "cluster.price_per_accelerator_hour"),
    ):
        with pytest.raises(InvalidSpec) as error:
            parse_case({**asked, "cluster": {"gpu": "a100", "gpus": 8, **cluster}})
        assert error.value.field == field
    assert "cost_per_iteration" not in Predictor().answer(parse_case({**asked, "cluster": {"gpu": "a100", "gpus": 8}}))


def test_a_cap_above_the_accelerator_s_own_limit_changes_nothing() -> None:
    def said(**cluster: Any) -> dict[str, Any]:
        return Predictor().answer(parse_case({
            "model": {"layers": 8, "hidden": 1024, "heads": 8, "vocab": 32000, "seq": 1024}, "global_batch": 32,
            "dp": 8, "cluster": {"gpu": "a100", "gpus": 8, **cluster},
        }))  # fmt: skip

    assert {**said(power_cap_w=900), "warnings": []} == said()
    assert said(power_cap_w=200)["energy_j"] < said()["energy_j"]


def test_utilisation_under_a_cap_is_told_against_the_peak_without() -> None:
    free, capped = (Predictor().answer(case(cluster=cluster)) for cluster in ({}, {"power_cap_w": 200}))
    for name in ("mfu", "hfu"):
        assert capped[name] / free[name] == pytest.approx(free["iteration_s"] / capped["iteration_s"])


def test_energy_has_an_interval_wider_than_that_of_the_time() -> None:
    found = Predictor().answer(case())
    assert found["energy_lo_j"] / found["energy_j"] < found["lo"] / found["iteration_s"]
    assert found["energy_hi_j"] / found["energy_j"] > found["hi"] / found["iteration_s"]
    assert found["energy_basis"] == "model"


def test_hardware_utilisation_counts_what_is_recomputed() -> None:
    def extra(**changes: Any) -> float:
        said = Predictor().answer(case(**changes))
        return float(said["hfu"] / said["mfu"])

    whole = extra(recompute="full")
    assert extra() == extra(recompute="selective") == 1.0
    assert extra(recompute="selective", attention="unfused") > 1.0
    assert extra(recompute="full", recompute_layers=3) - 1.0 == pytest.approx((whole - 1.0) / 4)
    assert 1.0 < extra(recompute="operators") < 1.0 + (whole - 1.0) / 2


@pytest.mark.parametrize(
    ("group", "path", "value"),
    [
        ("global", ("launch_s",), float("nan")), ("global", ("p2p_sync_s",), -1.0), ("links", ("nvlink",), 1.2),
        ("accelerators", ("ampere", "gemm"), 0.0),
    ],
)  # fmt: skip
def test_constants_that_are_none_are_refused(tmp_path: Path, group: str, path: tuple[str, ...], value: float) -> None:
    data = json.loads(json.dumps(document()))
    where = data[group]
    for name in path:
        where = where[name]
    where["value"] = value
    file = tmp_path / "constants.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(InvalidSpec, match="is no file of constants"):
        predictor_of(file)


def test_a_model_of_the_catalogue_is_its_shape() -> None:
    rest = {"cluster": {"gpu": "h100", "gpus": 8}, "tp": 8, "global_batch": 8, "zero": 1}
    shape = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "vocab": 128256, "seq": 8192,
             "gated": True, "dropout": False}  # fmt: skip
    named, said, short, wrong = answers(
        {"id": 1, "model": "llama-3.1-8b", "seq": 8192, **rest}, {"id": 1, "model": shape, **rest},
        {"id": 1, "model": "llama-3.1-8b", **rest}, {"id": 1, "model": "llama-3.1-9b", "seq": 8192, **rest},
    )  # fmt: skip
    assert named == said
    assert "error" not in named
    assert short["error"]["field"] == "seq"
    assert wrong["error"]["field"] == "model"
