"""Bad questions: every error names the field, and the limit or the way out."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.model.errors import InvalidSpec, TrimtabError, UnknownName, Unsupported
from tests.unit.tuner.training.cases import case, line
from tuner.training.question import parse_case

BAD: list[tuple[dict[str, Any], str, type[TrimtabError]]] = [
    ({"tp": 0}, "tp", InvalidSpec),
    ({"tp": -8}, "tp", InvalidSpec),
    ({"tp": 3}, "tp", InvalidSpec),
    ({"dp": 1.5}, "dp", InvalidSpec),
    ({"global_batch": 63}, "global_batch", InvalidSpec),
    ({"global_batch": None}, "global_batch", InvalidSpec),
    ({"pp": 49, "tp": 1, "dp": 1}, "pp", InvalidSpec),
    ({"dp": 64, "global_batch": 64}, "cluster.gpus", InvalidSpec),
    ({"cluster": {"gpu": "a100-sxm-80g"}}, "cluster.gpu", UnknownName),
    ({"cluster": {"gpus": 0}}, "cluster.gpus", InvalidSpec),
    ({"cluster": {"gpus": 60}}, "cluster.gpus", InvalidSpec),
    ({"cluster": {"nic": None}}, "cluster.nic", InvalidSpec),
    ({"cluster": {"nic": "ib-hdr-300"}}, "cluster.nic", UnknownName),
    ({"cluster": []}, "cluster", InvalidSpec),
    ({"model": {"hidden": 6145}}, "model.hidden", InvalidSpec),
    ({"model": {"layers": 0}}, "model.layers", InvalidSpec),
    ({"model": {"kv_heads": 7}}, "tp", InvalidSpec),
    ({"model": {"seq": 2047}, "cp": 2, "dp": 1}, "cp", InvalidSpec),
    ({"model": {"experts": 6, "top_k": 7}}, "model.top_k", InvalidSpec),
    ({"model": {"experts": 6}, "ep": 4}, "ep", InvalidSpec),
    ({"ep": 2}, "ep", InvalidSpec),
    ({"vpp": 2, "schedule": "1f1b"}, "vpp", InvalidSpec),
    ({"vpp": 13}, "vpp", InvalidSpec),
    ({"vpp": 2, "global_batch": 60}, "global_batch", InvalidSpec),
    ({"schedule": "2f2b"}, "schedule", InvalidSpec),
    ({"schedule": "zb-h1", "recompute": "full"}, "recompute", Unsupported),
    ({"layers_per_stage": [12, 12, 12]}, "layers_per_stage", InvalidSpec),
    ({"layers_per_stage": [12, 12, 12, 13]}, "layers_per_stage", InvalidSpec),
    ({"stage_pools": [0, 1, 0, 0]}, "stage_pools", InvalidSpec),
    ({"gradient_bytes": 3}, "gradient_bytes", InvalidSpec),
    ({"pp": 2048, "dp": 1, "tp": 1, "model": {"layers": 4096}, "cluster": {"gpus": 2048}}, "pp", InvalidSpec),
    (
        {"pp": 512, "dp": 1, "tp": 1, "schedule": "zb-v", "model": {"layers": 1024}, "cluster": {"gpus": 512}},
        "pp",
        InvalidSpec,
    ),
    ({"sp": True, "tp": 1}, "sp", InvalidSpec),
    ({"precision": "fp8"}, "precision", Unsupported),
    ({"zero": 4}, "zero", InvalidSpec),
    ({"microbatch": 1}, "microbatch", UnknownName),
]


@pytest.mark.parametrize(("changes", "field", "kind"), BAD, ids=lambda value: str(value)[:50])
def test_a_bad_field_is_named(changes: dict[str, Any], field: str, kind: type[TrimtabError]) -> None:
    from tuner.training.predict import Predictor

    with pytest.raises(kind) as caught:
        Predictor().answer(parse_case(line(**changes)))
    assert caught.value.field == field
    assert caught.value.limit or caught.value.hint


def test_the_nearest_accelerator_is_named() -> None:
    with pytest.raises(UnknownName, match="did you mean"):
        case(cluster={"gpu": "h100-sxm-80g"})


def test_short_names_are_understood() -> None:
    found = case(cluster={"gpu": "A100", "nic": "HDR"})
    assert found.pools[0].gpu == "a100-sxm-80gb"
    assert found.pools[0].nic == "ib-hdr-200"
