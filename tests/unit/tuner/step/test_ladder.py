"""Who answers, in which order, and what the answer says about it."""

import importlib.util
import subprocess
import sys
from dataclasses import dataclass, field, replace

import pytest

from controlplane.model.errors import InvalidSpec, UnknownName
from tests.unit.tuner.step.fakes import FakeParts
from tuner.serving.case import EngineCase
from tuner.serving.step import aiconfigurator, ladder
from tuner.serving.step.bounds import review
from tuner.serving.step.ladder import rungs, step_table
from tuner.serving.step.names import plain_config
from tuner.serving.step.query import Miss, Query
from tuner.serving.step.store import NotMeasured, TableStore, key_of

LLAMA = EngineCase(model="llama-3.1-70b", accelerator="h200-sxm-141gb", engine="vllm", tensor_parallel=8)
GPT_OSS = EngineCase(
    model="gpt-oss-120b", accelerator="h100-sxm-80gb", engine="trtllm-serve", tensor_parallel=2, moe_tensor_parallel=2
)
DEEPSEEK = EngineCase(
    model="deepseek-v3", accelerator="h200-sxm-141gb", engine="sglang", tensor_parallel=8, moe_expert_parallel=8
)
measured = pytest.mark.skipif(not aiconfigurator.installed(), reason="the measured tables are an optional extra")


@pytest.fixture
def store(tmp_path):
    return TableStore(tmp_path)


@dataclass
class Parts(FakeParts):
    """Stands for a compiled engine. `slowdown` is that of everything but attention."""

    query: Query | None = None
    gemm_format: str | None = "bfloat16"
    moe_format: str | None = None
    slow: bool = False
    slowdown: float = 1.0
    light: float = 0.1
    borrowed: list[str] = field(default_factory=list)

    def context_ms(self, tokens):
        return self.slowdown * super().context_ms(tokens)

    def decode_ms(self, sequences):
        return self.slowdown * super().decode_ms(sequences)

    def notes(self):
        return self.borrowed

    def context_light_ms(self, tokens):
        return self.light

    decode_light_ms = context_light_ms

    def context_attention_light_ms(self, batch, new, past):
        return 0.0

    def decode_attention_light_ms(self, sequences, kv):
        return 0.0


@pytest.fixture
def answers(monkeypatch):
    """Answer queries from a function instead of the tables; returns what was asked."""
    asked = []

    def use(answer):
        def compile_query(query):
            asked.append(query)
            return answer(query)

        monkeypatch.setattr(aiconfigurator, "compile_query", compile_query)
        monkeypatch.setattr(aiconfigurator, "require", lambda: None)
        monkeypatch.setattr(aiconfigurator, "installed", lambda: True)
        monkeypatch.setattr(
            aiconfigurator,
            "shipped_models",
            lambda: frozenset({"meta-llama/Meta-Llama-3.1-70B", "openai/gpt-oss-120b"}),
        )
        return asked

    return use


def _missing(query):
    raise Miss("table-miss", f"nothing for {query.backend}")


def test_rungs_go_from_measured_to_borrowed(answers):
    answers(_missing)
    case = replace(LLAMA, gemm_quant="fp8_static", engine_version="0.19.0")
    order = [(tier, q.backend, q.version, q.mode, q.gemm_quant, q.fmha_quant) for tier, q in rungs(case)]
    assert order[:4] == [
        ("measured", "vllm", "0.19.0", "SILICON", "fp8_static", None),
        ("measured-bf16-attention", "vllm", "0.19.0", "SILICON", "fp8_static", "bfloat16"),
        ("measured", "vllm", "current", "SILICON", "fp8_static", None),
        ("measured-bf16-attention", "vllm", "current", "SILICON", "fp8_static", "bfloat16"),
    ]
    assert order[4] == ("borrowed", "vllm", "current", "SILICON", "fp8", None)
    assert ("sibling", "sglang", "current", "SILICON", "fp8_static", None) in order
    modes = [mode for _, _, _, mode, _, _ in order]
    assert modes == sorted(modes, reverse=True)  # borrowed utilisation after everything measured
    assert order[modes.index("HYBRID")][:2] == ("borrowed", "vllm")


@pytest.mark.parametrize(
    ("answered", "tier", "notes"),
    [
        (lambda q: q.mode == "SILICON" and q.fmha_quant is None and q.backend == "trtllm", "measured", 0),
        (lambda q: q.fmha_quant == "bfloat16", "measured-bf16-attention", 1),
        (lambda q: q.backend == "sglang", "sibling", 2),
        (lambda q: q.mode == "HYBRID", "borrowed", 6),
    ],
)
def test_the_first_rung_that_answers_is_taken_and_the_others_say_why_not(answers, answered, tier, notes):
    answers(lambda q: Parts(query=q) if answered(q) else _missing(q))
    table = ladder.measured_table(GPT_OSS)
    assert table.provenance.tier == tier
    assert len(table.provenance.notes) == notes
    assert all("table-miss" in note for note in table.provenance.notes)
    assert table.provenance.source.startswith("aiconfigurator-core 0.12.0: ")


def test_what_no_mode_can_answer_is_asked_once(answers):
    def refuse(query):
        raise Miss("version-unlisted" if query.version != "current" else "quantisation-not-on-accelerator", "no")

    asked = answers(refuse)
    found = ladder.measured_table(replace(LLAMA, engine_version="0.19.0"))
    assert isinstance(found, NotMeasured)
    assert [query.version for query in asked] == ["0.19.0", "current"]


def test_a_table_that_fails_while_it_is_read_is_a_miss(answers):
    answers(lambda q: Parts(query=q, fails_at=5_000 if q.fmha_quant is None else None))
    table = ladder.measured_table(LLAMA)
    assert table.provenance.tier == "measured-bf16-attention"
    assert "nothing measured here" in table.provenance.notes[0]


def test_what_was_borrowed_is_said(answers):
    answers(lambda q: Parts(query=q, borrowed=["utilisation borrowed (xquant)"]))
    assert ladder.measured_table(LLAMA).provenance.notes == ["utilisation borrowed (xquant)"]


def test_a_format_slower_than_bf16_is_taken_from_its_neighbour():
    query = Query(model="m", system="s", backend="vllm", gemm_quant="fp8_block")
    others = {"fp8": 0.9, "bfloat16": 1.0}
    found = review(
        Parts(query=query, gemm_format="fp8_block", slowdown=3.3),
        lambda q: Parts(query=q, slowdown=others[q.gemm_quant]),
    )
    assert found.replaced
    assert found.parts.query.gemm_quant == "fp8"
    assert found.notes == (
        "fp8_block tables of dense layers cannot be true (up to 3.7 x fp8, 3.3 x bfloat16): fp8 stands in",
    )


def test_a_neighbour_that_is_itself_wrong_does_not_stand_in():
    query = Query(model="m", system="s", backend="vllm", moe_quant="fp8")
    others = {"fp8_block": 2.5, "bfloat16": 1.0}
    found = review(
        Parts(query=query, moe_format="fp8", slowdown=3.3), lambda q: Parts(query=q, slowdown=others[q.moe_quant])
    )
    assert found.parts.query.moe_quant == "bfloat16"


def test_a_sound_format_stands_whatever_its_neighbours_lack():
    parts = Parts(query=Query(model="m", system="s", backend="vllm", gemm_quant="fp8"), gemm_format="fp8", slowdown=0.7)
    assert review(parts, lambda q: Parts(query=q)).parts is parts
    assert review(parts, _missing).parts is parts


def test_faster_than_light_is_flagged():
    notes = review(Parts(query=Query(model="m", system="s", backend="vllm"), light=20.0), _missing).notes
    assert [note.split(":")[0] for note in notes] == ["context", "decode"]
    assert "of its speed-of-light time" in notes[0]


@measured
def test_measured_tables_answer_and_are_kept(store):
    table = step_table(LLAMA, store=store)
    assert table.provenance.tier == "measured"
    assert table.provenance.query_mode == "SILICON"
    assert "vllm 0.24.0 on h200_sxm" in table.provenance.source
    again = step_table(LLAMA, store=store)
    assert again.context_attention_ms.tobytes() == table.context_attention_ms.tobytes()
    assert again.provenance == table.provenance


@measured
def test_a_plain_model_without_a_shipped_configuration_is_measured_by_its_shape(store):
    table = step_table(EngineCase(model="qwen2.5-7b", accelerator="h100-sxm-80gb", engine="vllm"), store=store)
    assert table.provenance.tier == "measured"
    assert any("made from the catalogue's shape" in note for note in table.provenance.notes)


@measured
def test_a_made_configuration_answers_as_the_shipped_one():
    shipped = next(rungs(LLAMA))[1]
    made = replace(shipped, model="anything", config=plain_config(LLAMA))
    one, two = aiconfigurator.compile_query(shipped), aiconfigurator.compile_query(made)
    assert one.context_ms(2048) == two.context_ms(2048)
    assert one.decode_attention_ms(64, 1000) == two.decode_attention_ms(64, 1000)


def test_shapes_that_a_plain_configuration_cannot_say_are_not_made():
    for model in ("gemma-3-27b", "deepseek-v3", "gpt-oss-120b", "opt-13b", "qwen3.5-27b"):
        assert plain_config(replace(LLAMA, model=model)) is None


@measured
def test_blocks_that_do_not_divide_leave_the_same_width_without_blocks(store):
    case = EngineCase(
        model="minimax-m2.5", accelerator="h200-sxm-141gb", engine="vllm", tensor_parallel=8, moe_tensor_parallel=8
    )
    table = step_table(case, store=store)
    assert table.provenance.tier == "borrowed"
    assert "weight_block_size" in table.provenance.notes[0]


@measured
def test_mla_without_fp8_attention_tables_is_served_at_bf16(store):
    table = step_table(DEEPSEEK, store=store)
    assert table.provenance.tier == "measured-bf16-attention"
    assert any("context MLA" in note for note in table.provenance.notes)


@measured
def test_block_fp8_of_vllm_is_not_believed(store):
    table = step_table(replace(LLAMA, gemm_quant="fp8_block"), store=store)
    assert table.provenance.tier == "borrowed"
    assert any("fp8_block tables of dense layers cannot be true" in note for note in table.provenance.notes)


@pytest.mark.parametrize(
    ("case", "note"),
    [
        (replace(LLAMA, accelerator="mi300x-192gb"), "no measured tables of accelerator mi300x-192gb"),
        (
            EngineCase(model="tiny-random-llama", accelerator="cpu-x86", engine="openvino"),
            "no measured tables of engine openvino",
        ),
    ],
)
def test_where_nothing_was_measured_the_roofline_answers(store, case, note, answers):
    asked = answers(_missing)
    table = step_table(case, store=store)
    assert table.provenance.tier == "roofline"
    assert note in table.provenance.notes
    assert asked == []


def test_failed_rungs_are_remembered(store, answers):
    asked = answers(_missing)
    first = step_table(GPT_OSS, store=store)
    count = len(asked)
    assert step_table(GPT_OSS, store=store).provenance == first.provenance
    assert len(asked) == count > 0
    assert first.provenance.tier == "roofline"


def test_a_failure_that_may_pass_is_not_remembered(store, answers):
    def broken(query):
        raise OSError("too many open files")

    answers(broken)
    assert step_table(LLAMA, store=store).provenance.tier == "roofline"
    asked = answers(_missing)
    step_table(LLAMA, store=store)
    assert asked


def test_short_memory_is_not_a_missing_table(store, answers):
    def broken(query):
        raise MemoryError

    answers(broken)
    with pytest.raises(MemoryError):
        step_table(LLAMA, store=store)


def test_without_the_package_the_roofline_answers_and_says_what_to_install(store, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    table = step_table(LLAMA, store=store)
    assert table.provenance.tier == "roofline"
    assert any("pip install 'trimtab[aiconfigurator]'" in note for note in table.provenance.notes)
    assert store.get(key_of(LLAMA, aiconfigurator.VERSION)) is None  # installing it must change the answer


def test_without_the_package_a_kept_table_still_answers(store, answers, monkeypatch):
    answers(lambda q: Parts(query=q))
    kept = step_table(LLAMA, store=store)
    monkeypatch.setattr(aiconfigurator, "installed", lambda: False)
    assert step_table(LLAMA, store=store).provenance == kept.provenance


@measured
def test_a_warm_process_imports_neither_tables_nor_dataframes(store):
    step_table(LLAMA, store=store)
    code = (
        "import sys; from pathlib import Path; from tuner.serving.case import EngineCase;"
        "from tuner.serving.step.ladder import step_table; from tuner.serving.step.store import TableStore;"
        f"case = EngineCase(model={LLAMA.model!r}, accelerator={LLAMA.accelerator!r}, engine='vllm', tensor_parallel=8);"
        "table = step_table(case, store=TableStore(Path(sys.argv[1])));"
        "assert table.provenance.tier == 'measured';"
        "sys.exit(bool({'aiconfigurator_core', 'pandas', 'pyarrow', 'numba'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(store.folder)], check=False).returncode == 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tensor_parallel": 0}, "tensor_parallel"),
        ({"tensor_parallel": 100_000}, "tensor_parallel"),
        ({"tensor_parallel": 7}, "tensor_parallel"),
        ({"pipeline_parallel": -1}, "pipeline_parallel"),
        ({"draft_tokens": 1_000}, "draft_tokens"),
        ({"moe_expert_parallel": 8}, "moe_expert_parallel"),
    ],
)
def test_absurd_cases_are_refused(store, changes, field):
    with pytest.raises(InvalidSpec) as caught:
        step_table(replace(LLAMA, **changes), store=store)
    assert caught.value.field == field
    assert caught.value.limit


def test_expert_widths_must_match_attention(store):
    with pytest.raises(InvalidSpec, match="moe_tensor_parallel x moe_expert_parallel = 8"):
        step_table(replace(DEEPSEEK, moe_expert_parallel=4), store=store)
    with pytest.raises(InvalidSpec) as caught:
        step_table(replace(GPT_OSS, tensor_parallel=4, pipeline_parallel=60, moe_tensor_parallel=4), store=store)
    assert caught.value.field == "pipeline_parallel"


@pytest.mark.parametrize(
    "changes", [{"model": "lama-3.1-70b"}, {"accelerator": "h200"}, {"gemm_quant": "fp7"}, {"kv_quant": "int3"}]
)
def test_unknown_names_are_told_with_the_nearest_known(store, changes):
    with pytest.raises(UnknownName) as caught:
        step_table(replace(LLAMA, **changes), store=store)
    assert caught.value.hint or caught.value.limit
