"""What settings resolve to: two spellings of one engine have one hash."""

import subprocess
import sys

from controlplane.catalog import load
from controlplane.model.tuning import Objective
from controlplane.model.tuning_job import TuningSpec
from tuner.search.canonical import canonical_of, resolved


def spec(engine="openvino", model="m.gguf", **shape):
    target = {"kind": "engine", "engine": engine, "model": model, "shape": shape}
    return TuningSpec.model_validate({"target": target, "objectives": [Objective(metric="tokens_per_s")]})


def test_defaults_and_spelling_do_not_matter():
    of = canonical_of(spec("vllm"))
    assert of({"streamInterval": 1, "gpuMemoryUtilization": 0.92}) == of({}) == of({"streamInterval": 1.0})
    assert of({"gpuMemoryUtilization": 0.93}) != of({})
    assert len(of({})) == 64


def test_what_has_no_effect_is_left_out():
    of = canonical_of(spec())
    assert of({"dynamicSplitFuse": True, "maxNumSeqs": 4}) == of({"dynamicSplitFuse": True, "maxNumSeqs": 64}) == of({})
    assert of({"dynamicSplitFuse": False, "maxNumSeqs": 4}) != of({"dynamicSplitFuse": False, "maxNumSeqs": 64})
    assert of({"kvCachePrecision": "u8"}) != of({})  # a rule on another of its values does not make it idle


def test_more_requests_than_the_cache_holds_are_those_it_holds():
    engine = load().engine("vllm")
    high, higher = (resolved(engine, {"maxNumSeqs": n}, requests_most=100) for n in (512, 1024))
    assert high == higher and high["maxNumSeqs"] == 100
    assert resolved(engine, {"maxNumSeqs": 64}, requests_most=100)["maxNumSeqs"] == 64


def test_another_target_is_another_configuration():
    hashes = {
        canonical_of(one)({})
        for one in (spec(), spec(model="n.gguf"), spec("vllm"), spec("vllm", tensorParallel=2), spec("sglang"))
    }
    assert len(hashes) == 5
    assert canonical_of(spec("vllm", tensorParallel=2))({}) != canonical_of(spec("vllm"))({"tensorParallel": 4})


def test_commands_are_told_apart_by_their_text():
    def command(text):
        target = {"kind": "command", "command": [text]}
        return TuningSpec.model_validate({"target": target, "objectives": [Objective(metric="x")]})

    assert canonical_of(command("a"))({"n": 2}) == canonical_of(command("a"))({"n": 2.0})
    assert canonical_of(command("a"))({"n": 1}) != canonical_of(command("a"))({"n": True})
    assert canonical_of(command("a"))({"n": 2}) != canonical_of(command("b"))({"n": 2})


def test_alike_in_every_process():
    code = (
        "from tests.unit.tuner.search.test_canonical import spec\n"
        "from tuner.search.canonical import canonical_of\n"
        "print(canonical_of(spec())({'maxNumBatchedTokens': 64, 'dynamicSplitFuse': True}))\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {canonical_of(spec())({"maxNumBatchedTokens": 64, "dynamicSplitFuse": True}) + "\n"}
