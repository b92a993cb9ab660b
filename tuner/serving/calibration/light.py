"""Least times that an accelerator's data sheet allows an iteration: what no correction may take a step table below."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controlplane.catalog import load
from controlplane.catalog.params import count_parameters
from controlplane.model.errors import TrimtabError
from tuner.serving.case import EngineCase
from tuner.serving.step.roofline_formats import WeightFormat, resolve_formats
from tuner.serving.step.table import Floats, StepTable


@dataclass(frozen=True, slots=True)
class _Part:
    """Weights that every token is multiplied with, on one rank; through all stages."""

    weights: float
    form: WeightFormat
    peak_flop_per_s: float


@dataclass(frozen=True, slots=True)
class Light:
    """Speed of light of one engine, attention left out. A prefill needs the output matrix for its last token only, so
    that counts in decodes alone; of experts those of one token are read at least."""

    layers: tuple[_Part, ...]
    head: _Part
    bandwidth_bytes_per_s: float

    def context_ms(self, tokens: Floats) -> Floats:
        """An iteration with so many context tokens on each attention rank."""
        return self._ms(self.layers, tokens)

    def decode_ms(self, sequences: Floats) -> Floats:
        """An iteration of so many decodes on each attention rank."""
        return self._ms((*self.layers, self.head), sequences)

    def _ms(self, parts: tuple[_Part, ...], tokens: Floats) -> Floats:
        flop_s = tokens * sum(2.0 * part.weights / part.peak_flop_per_s for part in parts)
        read_s = sum(part.weights * part.form.bytes_per_weight for part in parts) / self.bandwidth_bytes_per_s
        return np.asarray(1e3 * np.maximum(flop_s, read_s), np.float64)


def light_of(case: EngineCase) -> Light | None:
    """None where the catalogue states no peak of a format, no bandwidth, or does not know the case."""
    catalog = load()
    model, accelerator = catalog.models.get(case.model), catalog.accelerators.get(case.accelerator)
    # A CPU's rank is a number of cores, for which no data sheet states a bandwidth.
    if model is None or accelerator is None or accelerator.kind == "cpu":
        return None
    bandwidth = accelerator.memory_bandwidth_bytes_per_s
    try:
        formats = resolve_formats(
            model, accelerator, case.engine, gemm=case.gemm_quant, moe=case.moe_quant, kv=case.kv_quant
        )
    except TrimtabError:
        return None
    dense_peak = accelerator.peak_flop_per_s(formats.gemm.arithmetic)
    expert_peak = accelerator.peak_flop_per_s(formats.moe.arithmetic)
    if bandwidth is None or dense_peak is None or expert_peak is None:
        return None
    count, ranks = count_parameters(model), case.tensor_parallel
    dense = _Part((count.attention + count.dense_ffn) / ranks, formats.gemm, dense_peak)
    layers: tuple[_Part, ...] = (dense,)
    if model.moe is not None:
        # Other ranks' tokens use this rank's experts as much as its own use theirs: a rank's share is that of its tokens.
        active = count.experts * model.moe.experts_per_token / model.moe.experts
        # Read at least: one token's experts, spread over all ranks that hold some.
        shared = _Part(count.shared_and_router / ranks, formats.moe, expert_peak)
        layers = (dense, shared, _Part(active / ranks, _shared_by(formats.moe, case), expert_peak))
    head = _Part(model.vocab * (model.embedding_dim or model.hidden) / ranks, formats.gemm, dense_peak)
    return Light(layers, head, bandwidth)


def within_light(case: EngineCase, table: StepTable) -> tuple[StepTable, tuple[str, ...]]:
    """The table with nothing faster than light, and a note where it was."""
    light = light_of(case)
    if light is None:
        return table, ()
    context = np.maximum(table.context_ms, light.context_ms(table.context_tokens))
    decode = np.maximum(table.decode_ms, light.decode_ms(table.decode_sequences))
    held = [
        what
        for what, before, after in (("prefill", table.context_ms, context), ("decode", table.decode_ms, decode))
        if (after > before).any()
    ]
    if not held:
        return table, ()
    note = f"{' and '.join(held)}: held at the speed of light of the data sheet, which the correction would have passed"
    return replace(table, context_ms=context, decode_ms=decode), (note,)


def _shared_by(form: WeightFormat, case: EngineCase) -> WeightFormat:
    """Bytes of a weight that attention data parallel ranks read once between them."""
    return replace(form, bytes_per_weight=form.bytes_per_weight / case.attention_data_parallel)
