"""Which source answers for an engine case: the best one that can, with the reason every better one could not.

    measured                 tables of this engine, accelerator and quantisation
    measured-bf16-attention  the same, with attention at bf16 where fp8 attention was not measured
    borrowed                 the same engine with a weight format of the same width
    sibling                  tables of another engine on this accelerator
    borrowed, sibling        roofline times a utilisation measured on other shapes or quantisations, own engine first
    roofline                 shapes, peaks and bandwidths only (`roofline.py`)

Borrowed utilisation comes last of the measured ones because it is the weakest: see docs/step-model.md for the figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from controlplane import catalog
from controlplane.model.plans import Provenance, Tier
from tuner.serving.case import EngineCase
from tuner.serving.step import aiconfigurator, bounds, limits, names
from tuner.serving.step.bounds import Review
from tuner.serving.step.query import GEMM_QUANTS, KV_QUANTS, MOE_QUANTS, Query, as_miss
from tuner.serving.step.roofline_formats import checkpoint_formats
from tuner.serving.step.store import NotMeasured, TableStore, default_store, key_of
from tuner.serving.step.table import StepTable
from tuner.serving.step.tabulate import SLOW, USUAL, tabulate

# what no other mode of the same tables, or no tables at all of the accelerator, can answer either
_NO_WAY_OUT = ("version-unlisted", "system-unknown", "model-unknown")
_NO_SYSTEM_WIDE_WAY_OUT = ("quantisation-not-on-accelerator", "model-unknown")
# Whose tables stand in where an engine's own have nothing. TensorRT-LLM and SGLang share kernels (FlashInfer, the MLA
# and MoE kernels of TensorRT-LLM) more than either does with vLLM's defaults.
_SIBLING_BACKENDS = {"vllm": ("sglang", "trtllm"), "sglang": ("trtllm", "vllm"), "trtllm": ("sglang", "vllm")}


def step_table(case: EngineCase, *, store: TableStore | None = None) -> StepTable:
    """The table of a case from the best source that has one. `store` None: the user's cache folder.

    Raises UnknownName and InvalidSpec for a case that cannot be, Unsupported where not even a roofline is known.
    """
    limits.check(case)
    kept = default_store() if store is None else store
    key = key_of(case, aiconfigurator.VERSION)
    found = kept.get(key)
    if found is None:
        backend, system = names.backend_name(case.engine), names.system_name(case.accelerator)
        if backend is None or system is None:
            what = f"engine {case.engine}" if backend is None else f"accelerator {case.accelerator}"
            found = NotMeasured((f"no measured tables of {what}",))
        elif not aiconfigurator.installed():
            # not kept: installing the tables must change the answer
            found = NotMeasured(("measured tables not installed: pip install 'trimtab[aiconfigurator]'",))
        else:
            found = measured_table(case)
            if not isinstance(found, NotMeasured) or found.lasting:
                kept.put(key, found)
    if isinstance(found, NotMeasured):
        return _roofline(case, found.notes)
    return found


def measured_table(case: EngineCase) -> StepTable | NotMeasured:
    """The best measured table of a case, or why there is none. Asks the tables' package; keeps nothing."""
    aiconfigurator.require()
    compiled = cache(aiconfigurator.compile_query)
    notes: list[str] = []
    hopeless: set[tuple[str, str]] = set()
    lasting = True
    for tier, query in rungs(case):
        if (query.backend, query.version) in hopeless:
            continue
        try:
            return _tabulated(case, tier, bounds.review(compiled(query), compiled), notes)
        except MemoryError:
            raise
        except Exception as error:  # the package raises what it likes, also late, from a single shape
            miss = as_miss(error)
            lasting &= miss.kind != "package-error"
            notes.append(f"{_label(query)}: {miss}")
            if miss.kind in _NO_SYSTEM_WIDE_WAY_OUT:
                break
            if miss.kind in _NO_WAY_OUT:
                hopeless.add((query.backend, query.version))
    return NotMeasured(tuple(notes) or ("the measured tables do not know the model or its format",), lasting)


def rungs(case: EngineCase) -> Iterator[tuple[Tier, Query]]:
    """What is asked of the measured tables, best first. Empty where they know no such engine, model or accelerator."""
    backend, system = names.backend_name(case.engine), names.system_name(case.accelerator)
    shipped = aiconfigurator.shipped_models()
    if not _formats_known(case):
        return
    model = next((name for name in names.model_candidates(case) if name in shipped), None)
    config = names.plain_config(case) if model is None else None
    if backend is None or system is None or (model is None and config is None):
        return
    own = Query(
        model=model or case.model,
        config=config,
        system=system,
        backend=backend,
        version=case.engine_version or "current",
        tensor_parallel=case.tensor_parallel,
        pipeline_parallel=case.pipeline_parallel,
        attention_data_parallel=case.attention_data_parallel,
        moe_tensor_parallel=case.moe_tensor_parallel,
        moe_expert_parallel=case.moe_expert_parallel,
        gemm_quant=case.gemm_quant,
        moe_quant=case.moe_quant,
        kv_quant=case.kv_quant,
        draft_tokens=case.draft_tokens,
    )
    # engines move faster than measurements: the tables' current release stands in for one they do not list
    for version in dict.fromkeys((own.version, "current")):
        for attention in _attentions(replace(own, version=version)):
            yield ("measured" if attention.fmha_quant is None else "measured-bf16-attention"), attention
    own = replace(own, version="current")
    siblings = [replace(own, backend=other) for other in _SIBLING_BACKENDS[backend]]
    dense, experts, _ = checkpoint_formats(catalog.load().model(case.model))
    for same_width in _same_width(own, dense, experts):
        for attention in _attentions(same_width):
            yield "borrowed", attention
    for sibling in siblings:
        for query in (sibling, *_same_width(sibling, dense, experts)):
            for attention in _attentions(query):
                yield "sibling", attention
    if own.kv_quant is not None:  # attention over a 16-bit cache was measured where over a narrower one was not
        for query in (own, *siblings):
            for attention in _attentions(replace(query, kv_quant=None)):
                yield ("borrowed" if query is own else "sibling"), attention
    # all kinds of transfer at once: the narrower policies allow a part of them, so they never answer more
    for query in (own, *siblings):
        for attention in _attentions(replace(query, mode="HYBRID")):
            yield ("borrowed" if query is own else "sibling"), attention


def _formats_known(case: EngineCase) -> bool:
    asked = (
        (case.gemm_quant, GEMM_QUANTS),
        (case.moe_quant, MOE_QUANTS),
        (case.kv_quant, KV_QUANTS),
    )
    return all(word is None or word in known for word, known in asked)


def _attentions(query: Query) -> tuple[Query, Query]:
    """The engine as asked, and with attention at bf16: fp8 attention is often not measured."""
    return query, replace(query, fmha_quant=bounds.BF16)


def _same_width(query: Query, dense: str, experts: str) -> list[Query]:
    """The engine with weight formats of the same bytes and arithmetic in place of its own or the checkpoint's."""
    gemm = (query.gemm_quant, *bounds.SAME_WIDTH.get(query.gemm_quant or dense, ()))
    moe = (query.moe_quant, *bounds.SAME_WIDTH.get(query.moe_quant or experts, ()))
    return [replace(query, gemm_quant=g, moe_quant=m) for m in moe for g in gemm if (g, m) != (gemm[0], moe[0])]


def _tabulated(case: EngineCase, tier: Tier, found: Review, notes: list[str]) -> StepTable:
    parts = found.parts
    query = parts.query
    provenance = Provenance(
        tier="borrowed" if found.replaced and tier != "sibling" else tier,
        source=f"aiconfigurator-core {aiconfigurator.VERSION}: {query.backend} {query.version} on {query.system}",
        query_mode=query.mode,
        notes=[*notes, *found.notes, *parts.notes()],
    )
    knots = SLOW if parts.slow else USUAL
    return tabulate(parts, provenance, draft_tokens=case.draft_tokens, knots=knots)


def _label(query: Query) -> str:
    words = [query.backend, query.version, query.mode]
    words += [f"{name} {word}" for name, word in (("dense", query.gemm_quant), ("experts", query.moe_quant)) if word]
    if query.fmha_quant is not None:
        words.append(f"{query.fmha_quant} attention")
    return " ".join(words)


def _roofline(case: EngineCase, notes: tuple[str, ...]) -> StepTable:
    from tuner.serving.step.roofline import roofline_table  # noqa: PLC0415  only where nothing was measured

    table = roofline_table(case)
    provenance = table.provenance.model_copy(update={"notes": [*notes, *table.provenance.notes]})
    return replace(table, provenance=provenance)
