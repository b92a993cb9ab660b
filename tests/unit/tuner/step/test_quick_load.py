"""The quick first load of the measured tables answers what the package answers by itself."""

import types

import pytest
import yaml

from tuner.serving.step import aiconfigurator
from tuner.serving.step.quick_load import counts_lanes_once, reads_with_libyaml

needs_tables = pytest.mark.skipif(not aiconfigurator.installed(), reason="aiconfigurator-core is not installed")
needs_libyaml = pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML was built without libyaml")


@needs_libyaml
def test_only_the_module_s_own_yaml_is_replaced(tmp_path):
    module = types.ModuleType("theirs")
    module.yaml = yaml
    reads_with_libyaml(module)
    assert module.yaml.SafeLoader is yaml.CSafeLoader
    assert yaml.SafeLoader is not yaml.CSafeLoader and yaml.safe_load is not module.yaml.safe_load
    file = tmp_path / "a.yaml"
    file.write_text("a: [1, 2.5, yes, 'x', null]\nb: 2024-01-01\n")
    for theirs in (module.yaml.safe_load(file.read_text()), module.yaml.load(file.read_text(), module.yaml.SafeLoader)):
        assert theirs == yaml.safe_load(file.read_text())
    with pytest.raises(yaml.YAMLError):
        module.yaml.safe_load("!!python/object/apply:os.system ['true']")
    before = module.yaml
    reads_with_libyaml(module)
    assert module.yaml is before


def test_a_module_without_yaml_is_left_alone():
    module = types.ModuleType("theirs")
    reads_with_libyaml(module)
    assert not hasattr(module, "yaml")


@pytest.mark.parametrize(
    ("sources", "asked"),
    [
        ([{"channel": "primary", "exists": True}], [None]),
        ([{"channel": "primary", "exists": True}, {"channel": "shared", "exists": True}], [False]),
        ([{"channel": "primary", "exists": False}], [False]),
        ([{"channel": "shared", "exists": True}], [False]),
        ([], [False]),
    ],
)
def test_own_rows_are_counted_apart_only_where_others_are_among_them(sources, asked):
    said = []
    views = types.SimpleNamespace(
        fetch_attention_lane_density=lambda _database, _attribute, *, shared_layer=None: said.append(shared_layer)
    )
    counts_lanes_once(views)
    counts_lanes_once(views)  # twice is once
    database = types.SimpleNamespace(data_provenance={"context_attention_perf.parquet": sources})
    views.fetch_attention_lane_density(database, "_context_attention_data", shared_layer=False)
    assert said == asked
    views.fetch_attention_lane_density(database, "_context_attention_data", shared_layer=True)
    assert said == [*asked, True]


@needs_tables
@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_the_lanes_of_the_shipped_tables_are_the_package_s_own(backend):
    from aiconfigurator_core.sdk import engine_table_view, perf_database

    version = perf_database.resolve_query_version("h100_sxm", backend, "current")
    plain = perf_database.get_database_view("h100_sxm", backend, version)
    views = types.ModuleType("views")
    ask = engine_table_view.fetch_attention_lane_density
    views.fetch_attention_lane_density = getattr(ask, "asks", ask)
    counts_lanes_once(views)
    for attribute in ("_context_attention_data", "_generation_attention_data"):
        own = getattr(ask, "asks", ask)(plain, attribute, shared_layer=False)
        assert views.fetch_attention_lane_density(plain, attribute, shared_layer=False) == own
        assert own
