"""The measured sample: counts as published, one test for each repair, one line for each unusable file."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from controlplane.model.errors import InvalidSpec, Unsupported
from tuner.serving.calibration import silicon
from tuner.serving.calibration.silicon import (
    SAMPLE_SHA256,
    SiliconRow,
    distinct,
    load_silicon,
    repair_parallel,
    sample_path,
    sha256_of,
)
from tuner.serving.calibration.split import folds, is_test, split


@pytest.fixture(scope="module")
def rows() -> tuple[SiliconRow, ...]:
    try:
        sample_path()
    except Unsupported as error:
        pytest.skip(str(error))
    return load_silicon()


def _write(path: Path, **changed: str) -> Path:
    fields = {
        "id": "one",
        "silicon_data_source": "source_file=mine.csv; silicon_concurrency=64",
        "backend": "vllm",
        "model_path": "Qwen/Qwen3-32B",
        "system": "h100_sxm",
        "mode": "agg",
        "isl": "1024",
        "osl": "256",
        "gemm_quant_mode": "",
        "moe_quant_mode": "",
        "batch_size": "64",
        "tp_size": "4",
        "attention_dp_size": "1",
        "moe_tp_size": "1",
        "moe_ep_size": "1",
        "silicon_ttft_ms": "100.5",
        "silicon_tpot_ms": "10.25",
    } | changed
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(fields))
        writer.writeheader()
        writer.writerow(fields)
    return path


def test_the_file_is_the_one_that_was_studied(rows: tuple[SiliconRow, ...]) -> None:
    assert sha256_of(sample_path()) == SAMPLE_SHA256
    assert len(rows) == 5221
    assert [sum(row.mode == mode for row in rows) for mode in ("agg", "disagg")] == [3619, 1602]


def test_repeats_are_one_measurement(rows: tuple[SiliconRow, ...]) -> None:
    assert len(distinct(rows)) == 3892
    assert distinct(rows + rows) == distinct(rows)


def test_the_split_counts(rows: tuple[SiliconRow, ...]) -> None:
    parts = split(rows)
    assert (len(parts.test), len(parts.fit), len(parts.fit_clean)) == (1769, 3452, 2408)
    assert sum(row.mode == "agg" for row in parts.fit_clean) == 1832
    assert [len(distinct(part)) for part in (parts.test, parts.fit, parts.fit_clean)] == [1382, 2887, 2162]
    groups = [{row.group_key for row in part} for part in (rows, parts.test, parts.fit)]
    assert [len(group) for group in groups] == [865, 301, 643]
    assert len(groups[1] & groups[2]) == 79


def test_nothing_fitted_on_was_measured_or_configured_like_test(rows: tuple[SiliconRow, ...]) -> None:
    parts = split(rows)
    assert not {row.value_key for row in parts.test} & {row.value_key for row in parts.fit_clean}
    assert not {row.group_key for row in parts.test} & {row.group_key for row in parts.fit_clean}
    assert not any(is_test(row) for row in parts.fit_clean)


def test_wrong_parallel_degrees_are_repaired(rows: tuple[SiliconRow, ...]) -> None:
    agg = [row for row in rows if row.mode == "agg"]
    counts = [sum(rule in row.repairs for row in agg) for rule in ("P1", "P2", "P3")]
    assert counts == [284, 45, 97]
    assert sum(counts) == 426


@pytest.mark.parametrize(
    ("filed", "deployed", "rule"),
    [
        ((64, 1, 8, 8), (8, 1, 1, 8), "P1"),
        ((1, 16, 4, 4), (1, 4, 1, 4), "P2"),
        ((8, 8, 1, 64), (8, 1, 1, 8), "P3"),
        ((8, 1, 1, 8), (8, 1, 1, 8), None),
        ((4, 0, 0, 0), (4, 1, 1, 1), None),
        ((1, 8, 1, 8), (1, 8, 1, 8), None),
    ],
)
def test_parallel_rules(filed: tuple[int, ...], deployed: tuple[int, ...], rule: str | None) -> None:
    tp, dp, moe_tp, moe_ep = filed
    assert repair_parallel(tp, dp, moe_tp, moe_ep) == (deployed, rule)


def test_concurrency_comes_from_the_source_column(tmp_path: Path) -> None:
    (row,) = load_silicon(_write(tmp_path / "a.csv", batch_size="60"))
    assert row.concurrency == 64
    assert row.batch_per_rank == 60


def test_concurrency_without_a_source_is_the_batch_of_all_ranks(tmp_path: Path) -> None:
    (row,) = load_silicon(
        _write(tmp_path / "a.csv", silicon_data_source="source_file=x", batch_size="8", attention_dp_size="4")
    )
    assert row.concurrency == 32
    assert any("no concurrency" in repair for repair in row.repairs)


def test_batch_of_a_repaired_attention_parallel_row(tmp_path: Path) -> None:
    (row,) = load_silicon(
        _write(
            tmp_path / "a.csv",
            batch_size="4",
            tp_size="1",
            attention_dp_size="16",
            moe_tp_size="4",
            moe_ep_size="4",
        )
    )
    assert row.shape is not None
    assert (row.shape.attention_data_parallel, row.batch_per_rank) == (4, 16)


def test_blank_and_zero_attention_parallel(tmp_path: Path, rows: tuple[SiliconRow, ...]) -> None:
    (blank,) = load_silicon(_write(tmp_path / "a.csv", attention_dp_size=""))
    (zero,) = load_silicon(_write(tmp_path / "b.csv", attention_dp_size="0"))
    assert blank.shape is not None and zero.shape is not None
    assert blank.shape.attention_data_parallel == zero.shape.attention_data_parallel == 1
    counts = [sum(f"attention_dp_size {what} read as 1" in row.repairs for row in rows) for what in ("blank", "0")]
    assert counts == [820, 15]


def test_more_clients_than_batch_are_replicas(tmp_path: Path, rows: tuple[SiliconRow, ...]) -> None:
    (row,) = load_silicon(_write(tmp_path / "a.csv", batch_size="16"))
    assert (row.replicas, row.concurrency) == (4, 64)
    (ranks,) = load_silicon(_write(tmp_path / "b.csv", batch_size="16", attention_dp_size="4"))
    assert ranks.replicas == 1
    (odd,) = load_silicon(_write(tmp_path / "c.csv", batch_size="60"))
    assert odd.replicas == 1
    (repaired,) = load_silicon(
        _write(tmp_path / "d.csv", batch_size="16", tp_size="4", attention_dp_size="4", moe_ep_size="16")
    )
    assert (repaired.repairs, repaired.replicas) == (("P3",), 1), "its batch was divided by the wrong width"
    zero = [row for row in rows if "attention_dp_size 0 read as 1" in row.repairs]
    assert {row.replicas for row in zero} == {1, 2, 4}
    fitted = [row for row in split(rows).fit_clean if row.replicas > 1]
    assert len(fitted) == 29


def test_gpt_oss_is_not_nvfp4(rows: tuple[SiliconRow, ...]) -> None:
    agg = [row for row in rows if "gpt-oss" in row.model and row.mode == "agg" and row.precision == "fp4"]
    assert len(agg) == 430
    assert all(row.gemm_quant is None and row.moe_quant is None for row in agg)


def test_rows_in_progress_are_marked(rows: tuple[SiliconRow, ...]) -> None:
    assert sum(row.work_in_progress for row in rows) == 234


def test_disaggregated_rows_that_say_everything(rows: tuple[SiliconRow, ...]) -> None:
    def complete(row: SiliconRow) -> bool:
        return all(role is not None and role.workers and role.batch_per_rank for role in (row.prefill, row.decode))

    parts = split(rows)
    assert sum(complete(row) for row in parts.test) == 264
    assert sum(complete(row) for row in parts.fit) == 10


def test_folds_keep_a_configuration_and_a_measurement_together(rows: tuple[SiliconRow, ...]) -> None:
    fit = split(rows).fit_clean
    chosen = folds(fit)
    for key in ("group_key", "value_key"):
        place: dict[object, int] = {}
        for row, fold in zip(fit, chosen, strict=True):
            assert place.setdefault(getattr(row, key), fold) == fold
    assert set(chosen) == set(range(5))
    backwards = folds(fit[::-1])
    assert backwards[::-1] == chosen


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("isl", "0"),
        ("isl", "-5"),
        ("isl", "1e9"),
        ("osl", ""),
        ("mode", "both"),
        ("model_path", ""),
        ("tp_size", "99999999999999"),
        ("silicon_ttft_ms", "fast"),
        ("silicon_ttft_ms", "nan"),
        ("silicon_tpot_ms", "inf"),
        ("silicon_tpot_ms", "0"),
    ],
)
def test_an_unusable_value_is_named_with_its_line(tmp_path: Path, column: str, value: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        load_silicon(_write(tmp_path / "a.csv", **{column: value}))
    assert caught.value.field == f"line 2, {column}"


def test_files_that_are_no_sample(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")
    with pytest.raises(InvalidSpec, match="no column"):
        load_silicon(wrong)
    with pytest.raises(InvalidSpec, match="cannot be read"):
        load_silicon(tmp_path / "absent.csv")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00" * 10)
    with pytest.raises(InvalidSpec, match="cannot be read"):
        load_silicon(binary)


def test_a_huge_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silicon, "MAX_FILE_BYTES", 10)
    with pytest.raises(InvalidSpec, match="too large"):
        load_silicon(_write(tmp_path / "a.csv"))


def test_without_the_package_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silicon.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Unsupported, match="aiconfigurator"):
        sample_path()
