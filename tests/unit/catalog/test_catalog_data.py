"""The data files themselves: every number has a unit in its name and a source beside it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import controlplane.catalog as package
from controlplane.catalog import load
from controlplane.catalog.loader import load_from

DATA = Path(package.__file__).parent / "data"
FILES = ["accelerators", "nics", "models", "engines"]
UNITLESS = {  # counts of things the name itself says
    "release_year", "scale_up_domain_accelerators", "pcie_generation", "pcie_lanes", "accelerators_per_node",
    "layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "norms_per_layer", "learned_positions",
    "embedding_dim", "published_parameters", "published_active_parameters", "port",
    "fp32_flop_per_cycle_per_core", "bf16_flop_per_cycle_per_core", "int8_op_per_cycle_per_core",
}  # fmt: skip
UNITS = re.compile(r"_(bytes|bytes_per_s|bytes_per_s_per_direction|flop_per_s|op_per_s|bits_per_s|w|tokens)$")


def records(name: str) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = json.loads((DATA / f"{name}.json").read_text())
    return out


def is_fact(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], int | float)
        and not isinstance(value[0], bool)
        and isinstance(value[1], str)
    )


def walk(value: Any, path: str, sourced: bool) -> Iterator[tuple[str, Any, bool]]:
    """Every number with its path and whether a source stands beside it."""
    if is_fact(value):
        yield path, value[0], True
    elif isinstance(value, bool):
        return
    elif isinstance(value, int | float):
        yield path, value, sourced
    elif isinstance(value, dict):
        inside = sourced or "source" in value
        for key, item in value.items():
            yield from walk(item, f"{path}.{key}", inside)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from walk(item, f"{path}[{index}]", sourced)


@pytest.mark.parametrize("name", FILES)
def test_every_number_has_a_source(name: str) -> None:
    bare = [path for record in records(name) for path, _, sourced in walk(record, record["id"], False) if not sourced]
    assert bare == []


@pytest.mark.parametrize("name", ["accelerators", "nics", "models"])
def test_every_number_has_a_unit_in_its_name(name: str) -> None:
    for record in records(name):
        for field, value in record.items():
            if is_fact(value):
                assert field in UNITLESS or UNITS.search(field), f"{record['id']}.{field}"


def test_sources_are_complete_and_all_used() -> None:
    sources = json.loads((DATA / "sources.json").read_text())
    text = "".join((DATA / f"{name}.json").read_text() for name in FILES)
    for key, source in sources.items():
        assert f'"{key}"' in text, f"{key} is used nowhere"
        assert source["title"] and source["publisher"] and source["kind"], key
        if source["kind"] != "own":
            assert source["url"].startswith("https://"), key
            assert 2010 <= source["year"] <= 2030, key


@pytest.mark.parametrize("name", FILES)
def test_ids_are_short_lower_case_and_unique(name: str) -> None:
    ids = [record["id"] for record in records(name)]
    assert len(ids) == len(set(ids))
    for id in ids:
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,61}[a-z0-9]", id), id


def test_the_catalogue_is_as_wide_as_promised() -> None:
    catalog = load()
    assert len(catalog.accelerators) >= 30
    assert len(catalog.nics) >= 15
    assert len(catalog.models) >= 40
    assert sorted(catalog.engines) == ["openvino", "sglang", "trtllm-serve", "vllm"]


def test_accelerators_of_measured_tables_are_there() -> None:
    """Systems with latency tables, and the accelerators of the published training runs."""
    systems = {item.aiconfigurator_system for item in load().accelerators.values()}
    assert systems >= {
        "a100_sxm", "a100_pcie", "a30", "l4", "l40s", "h100_sxm", "h100_pcie", "h200_sxm", "b200_sxm", "b300_sxm",
        "gb200", "gb300", "rtx_pro_6000_server", "b60",
    }  # fmt: skip
    for id in ("v100-sxm2-16gb", "t4", "a100-sxm-40gb", "gh200-96gb", "rtx-3090", "rtx-2080", "titan-rtx"):
        assert load().accelerator(id).id == id


@pytest.mark.parametrize(
    "repo",
    [
        "deepseek-ai/DeepSeek-R1", "deepseek-ai/DeepSeek-V3", "MiniMaxAI/MiniMax-M2.5", "openai/gpt-oss-120b",
        "meta-llama/Llama-3.1-70B", "meta-llama/Meta-Llama-3.1-70B", "Qwen/Qwen3-32B", "Qwen/Qwen3.5-397B-A17B",
        "moonshotai/Kimi-K2.5", "meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen3-235B-A22B-FP8", "zhipuai/GLM-5",
        "nvidia/DeepSeek-R1-NVFP4", "nvidia/Qwen3-32B-NVFP4", "nvidia/Llama-3.1-8B-Instruct-FP8",
    ],
)  # fmt: skip
def test_models_of_measured_runs_are_found_by_repository_id(repo: str) -> None:
    assert load().find_model(repo) is not None
    assert load().find_model(repo.upper()) is not None


def test_numbers_are_attributes_and_know_their_source() -> None:
    h100 = load().accelerator("h100-sxm-80gb")
    assert h100.memory_bytes == 80_000_000_000
    source = h100.source_of("memory_bytes")
    assert source is not None and "H100" in source.title and source.publisher == "NVIDIA"
    assert h100.source_of("min_power_limit_w") is None and h100.min_power_limit_w is None
    moe = load().model("mixtral-8x7b")
    assert moe.moe is not None and moe.moe.experts == 8
    assert moe.source_of("moe.experts") is not None


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    for name in [*FILES, "sources"]:
        (tmp_path / f"{name}.json").write_text((DATA / f"{name}.json").read_text())
    broken = records("accelerators")
    broken[3]["memory_byte"] = [1, broken[3]["memory_bytes"][1]]
    (tmp_path / "accelerators.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=rf"accelerators.json: {broken[3]['id']}: .*memory_byte"):
        load_from(tmp_path)
    broken = records("accelerators")
    broken[0]["memory_bytes"][1] = "no-such-document"
    (tmp_path / "accelerators.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="no-such-document"):
        load_from(tmp_path)


def test_an_id_listed_twice_is_refused(tmp_path: Path) -> None:
    for name in [*FILES, "sources"]:
        (tmp_path / f"{name}.json").write_text((DATA / f"{name}.json").read_text())
    twice = records("nics")
    (tmp_path / "nics.json").write_text(json.dumps([*twice, twice[0]]))
    with pytest.raises(ValueError, match="listed twice"):
        load_from(tmp_path)
