"""The catalogue's record of the embedded engine against that engine's own source: flags, metrics, key variable."""

import ast
from pathlib import Path

import pytest

from controlplane.catalog import load

SOURCE = Path(__file__).parents[2] / "engines" / "openvino" / "trimtab_engine"
ENGINE = load().engine("openvino")


def strings(file: str) -> set[str]:
    tree = ast.parse((SOURCE / file).read_text())
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_flag_is_one_of_the_engine() -> None:
    known = {word for word in strings("cli.py") if word.startswith("--")}
    used = {knob.flag for knob in ENGINE.knobs} | {ENGINE.drain.timeout_flag}
    used |= {ENGINE.launch.model_flag, ENGINE.launch.served_name_flag, ENGINE.launch.host_flag, ENGINE.launch.port_flag}
    assert used <= known
    for knob in ENGINE.knobs:
        if knob.false_flag is not None:  # argparse.BooleanOptionalAction
            assert knob.flag is not None and knob.false_flag == "--no-" + knob.flag.removeprefix("--")


def test_the_key_variable_and_the_command() -> None:
    assert ENGINE.launch.api_key_env in strings("cli.py")
    assert ENGINE.launch.command == ("trimtab-engine", "serve")
    assert "serve" in strings("cli.py")


@pytest.mark.parametrize(
    "name",
    ["running", "waiting", "kv_usage", "ttft", "inter_token", "e2e", "prompt_tokens", "generation_tokens", "requests"],
)
def test_metric_names(name: str) -> None:
    series = getattr(ENGINE.metrics, name)
    assert series.startswith("trimtab_engine_")
    assert series.removeprefix("trimtab_engine_") in strings("metrics.py")


def test_paths() -> None:
    assert {ENGINE.health_path, ENGINE.liveness_path, ENGINE.metrics.path, ENGINE.models_path} <= strings("app.py")
