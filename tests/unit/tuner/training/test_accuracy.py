"""Published tables: what is dropped and why, what is never fitted, errors as the shipped constants reach them."""

from __future__ import annotations

import csv
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from controlplane.model.errors import InvalidSpec, Refused
from controlplane.model.training import TrainingModel
from tuner.training.accuracy import score_folder
from tuner.training.calibration.fit import fit, sample
from tuner.training.calibration.plan import HELD_OUT_BY, PRIORS, WEIGHTS
from tuner.training.calibration.score import errors, ranking, spearman
from tuner.training.constants import ACCELERATOR_NAMES, GLOBAL_NAMES, document, shipped
from tuner.training.flops import model_flops
from tuner.training.loaders import megatron, mixed, vtrain
from tuner.training.loaders.rows import records
from tuner.training.loaders.tables import tables
from tuner.training.loaders.variants import VARIANTS

FOLDER = Path(__file__).resolve().parents[4].parent / "shared" / "truth" / "training"
published = pytest.mark.skipif(not FOLDER.is_dir(), reason="published tables are not kept beside the checkout")
VTRAIN = (
    "Parameters (billion),# GPUs,global batch,micro batch,hidden size,attention heads,# layers,sequence length,"
    "tensor parallelism,data parallelism,pipeline parallelism,iteration time (ms)"
)


def test_few_constants_each_with_its_basis() -> None:
    assert len(GLOBAL_NAMES) <= 8 and len(ACCELERATOR_NAMES) == 3
    for group in ("global", "links"):
        assert all("basis" in record for record in document()[group].values())
    assert {record["table"] for record in document()["fit"]["files"].values()} == set(WEIGHTS)
    for name in ("ptdp", "korthikanti", "megascale", "torchtitan", "amp", "sailor"):
        assert name in document()["fit"]["never_fitted"]


def test_shares_are_physical() -> None:
    for record in shipped().accelerators.values():
        assert all(0 < value <= 1 for value in record.values())
    assert all(0 < value <= 1 for value in shipped().links.values())


def test_a_row_that_cannot_be_read_is_dropped_and_listed(tmp_path: Path) -> None:
    good = "3.6,64,512,8,3072,32,30,2048,1,64,1,3566.5"
    path = tmp_path / "any name.csv"
    path.write_text(
        f"{VTRAIN}\n{good}\n{good.replace('3566.5', 'inf')}\n{good.replace(',512,', ',511,')}\n{good.replace(',32,30', ',0,30')}\n"
    )
    found, unknown = tables(tmp_path)
    table = found[0][1]
    assert unknown == [] and len(table.rows) == 1
    assert [line for line, _ in table.dropped] == [3, 4, 5]
    assert "iteration time (ms)" in table.dropped[0][1]


def test_unverified_data_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "unverified"
    folder.mkdir()
    path = folder / "table.csv"
    path.write_text(VTRAIN)
    with pytest.raises(Refused):
        vtrain.multi_node(path)
    with pytest.raises(Refused):
        records(path)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec) as caught:
        score_folder(tmp_path)
    assert caught.value.field == "data"


def test_ranks_of_ties_are_shared() -> None:
    assert spearman(np.array([1.0, 1, 2]), np.array([1.0, 1, 2])) == pytest.approx(1)
    assert spearman(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    assert spearman(np.array([1.0, 1, 1]), np.array([3.0, 2, 1])) is None
    found = ranking(np.array([1.0, 2, 3]), np.array([3.0, 2, 4]))
    assert found["regret_pct"] == 50
    assert errors([1.1, 0.9], [1.0, 1.0])["mape_pct"] == pytest.approx(10)


def test_the_fit_finds_constants_again(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    lines = [
        f"x,64,512,{b},{hidden},32,30,2048,{t},{64 // t},1,1"
        for b in (2, 4, 8)
        for hidden in (1024, 4096)
        for t in (1, 2, 4, 8)
    ]
    path.write_text("\n".join([VTRAIN, *(line.replace("x", "1") for line in lines)]))
    rows = vtrain.multi_node(path).rows
    names = ("shared.launch_s", "accelerators.ampere.gemm", "links.nvlink")
    wanted = dict(zip(names, (4e-5, 0.7, 0.5), strict=True))
    truth = shipped().replaced(wanted)
    from tuner.training.evaluate import times

    seconds = times([row.case for row in rows], truth).seconds
    from dataclasses import replace

    made = [replace(row, iteration_s=float(value)) for row, value in zip(rows, seconds, strict=True)]
    priors = {name: replace(PRIORS[name], spread=10.0) for name in names}
    found = fit(sample([(made, 24.0)], tuple(truth.accelerators)), shipped(), priors)
    for name, value in wanted.items():
        assert found.value(name) == pytest.approx(value, rel=1e-3)


def test_korthikanti_utilisation_from_the_printed_times() -> None:
    # arXiv 2205.05198, Table 5, selective recomputation: seconds, accelerators, batch, printed MFU
    for layers, hidden, heads, s, gpus, sequences, printed in (
        (48, 6144, 64, 1.10, 8, 4, 41.5), (96, 12288, 96, 13.75, 64, 64, 51.4),
        (105, 20480, 128, 37.83, 280, 280, 56.0), (128, 25600, 160, 71.49, 512, 512, 56.3),
    ):  # fmt: skip
        model = TrainingModel(layers=layers, hidden=hidden, heads=heads, kv_heads=heads, ffn=4 * hidden, vocab=51200,
                              seq=2048, head_dim=hidden // heads)  # fmt: skip
        assert 100 * model_flops(model, sequences) / (gpus * 312e12 * s) == pytest.approx(printed, abs=0.2)


@published
def test_known_defects_are_dropped() -> None:
    table = mixed.sailor(FOLDER / "sailor_validation.csv")
    assert len(table.dropped) == 3 and all("SUSPECT" in reason for _, reason in table.dropped)
    table = mixed.amp(FOLDER / "amp_real_trials.csv")
    assert sum("inf" in reason for _, reason in table.dropped) == 34
    mixed_rows = [row for row in table.rows if row.size == "het_cluster"]
    # A stage that lies on both kinds of nodes goes at the slower accelerator's and the slower network's pace.
    assert {row.case.stage_pools for row in mixed_rows if row.case.plan.pp == 1} == {(2,)}
    assert {row.case.stage_pools for row in mixed_rows if row.case.plan.pp == 4} == {(0, 0, 0, 1)}
    assert len(megatron.megascale(FOLDER / "megascale_table2.csv").rows) == 4


def test_other_readings_of_a_table_are_scored_and_impossible_ones_left_out(tmp_path: Path) -> None:
    head = (
        "model,heads,hidden,layers,tp,pp,dp,gpus,seq,vocab,micro_batch,global_batch,layers_per_virtual_stage,params_B,"
    )
    row = "x,96,12288,96,8,8,8,512,2048,51200,1,{batch},4,175,20.0"
    (tmp_path / "table.csv").write_text(
        "\n".join([head + "iter_time_s_derived_eq3", row.format(batch=512), row.format(batch=1024)])
    )
    report = score_folder(tmp_path)["tables"][0]
    assert report["n"] == 2 and set(report["spread"]) == set(VARIANTS["ptdp"])
    assert report["spread"]["micro-batch 1"]["mape_pct"] == report["time"]["mape_pct"]
    assert report["spread"]["not interleaved"]["bias_pct"] > report["time"]["bias_pct"]
    for name, readings in VARIANTS.items():
        assert readings, name


@published
def test_small_tables_are_read() -> None:
    found = {report["table"]: report for report in score_folder(FOLDER)["tables"]}
    assert found["korthikanti_layer"]["n"] == 5 and found["korthikanti_layer"]["layer"]["mape_pct"] < 4
    assert found["ptdp_figures"]["n"] == 14 and found["ptdp_figures"]["time"]["mape_pct"] < 10
    assert found["megascale_weak"]["n"] == 3 and found["megascale_weak"]["dropped"] == 3
    assert found["megascale_ablation"]["n"] == 1 and found["megascale_ablation"]["dropped"] == 8


@published
def test_errors_on_published_rows() -> None:
    found = {report["table"]: report for report in score_folder(FOLDER)["tables"]}
    for name, limit in {
        "ptdp": 5.0, "megascale": 6.0, "zerobubble": 5.0, "vocab": 6.0, "h100_strong": 3.0, "h100_weak": 9.0,
        "vtrain_multi": 8.0, "vtrain_single": 7.0, "fsdp": 7.0, "torchtitan": 10.0,
    }.items():  # fmt: skip
        assert found[name]["time"]["mape_pct"] < limit, name
    assert found["vocab"]["memory"]["mape_pct"] < 4
    assert found["zerobubble"]["memory"]["mape_pct"] < 5
    assert found["golden_memory"]["memory"]["median_pct"] < 8
    assert found["llama3"]["time"]["per_pattern"]["cp1"]["mape_pct"] < 5
    assert found["v100_gpt"]["time"]["median_pct"] < 20
    assert found["amp"]["ranking"]["homogeneous"]["spearman"] > 0.8
    assert set(HELD_OUT_BY) <= set(found)
    with (FOLDER / "ptdp_table1.csv").open(encoding="utf-8") as file:
        assert found["ptdp"]["n"] == len(list(csv.DictReader(file)))


def test_a_table_of_one_s_own_is_told_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("Parameters (billion),iteration time\n8,100\n")
    with pytest.raises(InvalidSpec, match=r"own.csv has no column 'iteration time \(ms\)'") as error:
        score_folder(tmp_path)
    assert error.value.field == "data"


def test_the_example_rows_of_the_page_are_read(tmp_path: Path) -> None:
    page = (Path(__file__).parents[4] / "docs" / "training-tables.md").read_text(encoding="utf-8")
    examples = re.findall(r"(?:^    .*\n)+", page, re.MULTILINE)
    for number, example in enumerate(examples):
        (tmp_path / f"{number:02}.csv").write_text(textwrap.dedent(example), encoding="utf-8")
    found, unknown = tables(tmp_path)
    assert not unknown
    assert len(found) == len(examples) > 10
    for _, table in found:
        assert table.rows, (table.name, table.dropped)
