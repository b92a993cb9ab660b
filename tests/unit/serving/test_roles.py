"""Separate prefill and decode replicas: which engines, and what an aggregated replica does not have."""

from __future__ import annotations

from typing import Any

import pytest

from operators.serving.render import pod, replica_template
from operators.serving.validate import validate
from tests.unit.serving.cases import CATALOG, SETTINGS, one_choice

CHOICE: dict[str, Any] = {"accelerator": "h100-sxm-80gb", "engine": "vllm", "tensorParallel": 4}
MODEL = ("llama-3.3-70b", "pvc:models/llama")


def engine_container(role: str, **choice: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    made = one_choice(*MODEL, {**CHOICE, **choice}, role=role)
    assert validate(made, CATALOG, SETTINGS) == []
    manifest = pod(replica_template(made, 0, CATALOG, SETTINGS), made, 0, 0, "node", "pool")
    return manifest, manifest["spec"]["containers"][0]


def test_the_roles_of_vllm_find_each_other_by_the_pod_s_address() -> None:
    for role, kv_role in (("Prefill", "kv_producer"), ("Decode", "kv_consumer")):
        manifest, engine = engine_container(role)
        told = engine["args"][engine["args"].index("--kv-transfer-config") + 1]
        assert told == f'{{"kv_connector":"NixlConnector","kv_role":"{kv_role}"}}'
        env = {variable["name"]: variable for variable in engine["env"]}
        assert env["VLLM_NIXL_SIDE_CHANNEL_HOST"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
        assert env["VLLM_NIXL_SIDE_CHANNEL_PORT"]["value"] == "5600"
        assert [port["containerPort"] for port in engine["ports"]] == [8000, 5600]
        assert manifest["metadata"]["labels"]["trimtab.dev/role"] == role


def test_the_roles_of_sglang_are_modes() -> None:
    _, engine = engine_container("Decode", engine="sglang")
    at = engine["args"].index("--disaggregation-mode")
    assert engine["args"][at : at + 4] == [
        "--disaggregation-mode",
        "decode",
        "--disaggregation-transfer-backend",
        "nixl",
    ]


def test_an_aggregated_replica_knows_nothing_of_roles() -> None:
    manifest, engine = engine_container("Aggregated")
    assert "--kv-transfer-config" not in engine["args"]
    assert "trimtab.dev/role" not in manifest["metadata"]["labels"]
    assert len(engine["ports"]) == 1


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"engine": "trtllm-serve"}, "trtllm-serve replicas of role Prefill are not rendered"),
        ({"tensorParallel": 16}, "a Prefill replica of 2 pods is not rendered"),
    ],
)
def test_what_is_not_rendered_is_refused(choice: dict[str, Any], words: str) -> None:
    errors = validate(one_choice(*MODEL, {**CHOICE, **choice}, role="Prefill"), CATALOG, SETTINGS)
    assert any(words in str(error) for error in errors), [str(error) for error in errors]
