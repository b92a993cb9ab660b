"""Step tables from shapes, peaks and bandwidths alone: for every accelerator and model of the catalogue.

An operator takes the longer of its arithmetic and its memory traffic, at the share of the datasheet that its class of
accelerator reaches (`data/roofline.json`), plus a launch. Sampling, scheduling and other host work are not in it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controlplane.catalog import load
from controlplane.catalog.params import check_parallel
from controlplane.model.errors import InvalidSpec
from controlplane.model.plans import Provenance
from tuner.serving.case import EngineCase
from tuner.serving.step.roofline_attention import context_attention_ms, decode_attention_ms
from tuner.serving.step.roofline_formats import resolve_formats
from tuner.serving.step.roofline_hardware import Hardware, constants, hardware_of
from tuner.serving.step.roofline_layers import Engine
from tuner.serving.step.roofline_links import links_of
from tuner.serving.step.table import Floats, StepTable

ROOFLINE_VERSION = 4  # part of the key of tables on disk: raise it when a formula or a constant changes


class Roofline:
    """The step model that needs no measurement."""

    def table(self, case: EngineCase) -> StepTable:
        """Raises UnknownName, InvalidSpec or Unsupported with the field at fault."""
        return roofline_table(case)


def roofline_table(case: EngineCase) -> StepTable:
    """Grids of one engine, all computed."""
    engine = engine_of(case)
    tokens = _knots(1, 262_144, 6)
    sequences = _knots(1, 4096, 6)
    batch, new = _knots(1, 512, 1), _knots(1, 262_144, 5)
    past = np.concatenate([[0.0], _knots(64, 1_048_576, 1)])
    decodes, kv = _knots(1, 4096, 3), np.concatenate([[0.0], _knots(16, 1_048_576, 3)])
    drafts = 1.0 + case.draft_tokens
    return StepTable(
        context_tokens=tokens,
        context_ms=engine.rest_ms(tokens, decode=False),
        decode_sequences=sequences,
        decode_ms=engine.rest_ms(sequences * drafts, decode=True) + _draft_ms(engine, sequences),
        context_attention_batch=batch,
        context_attention_new=new,
        context_attention_past=past,
        context_attention_ms=context_attention_ms(
            engine, batch[:, None, None], new[None, :, None], past[None, None, :]
        ),
        decode_attention_sequences=decodes,
        decode_attention_kv=kv,
        decode_attention_ms=decode_attention_ms(engine, decodes[:, None], kv[None, :]),
        draft_tokens=case.draft_tokens,
        provenance=Provenance(
            tier="roofline",
            source=f"roofline {ROOFLINE_VERSION}: {engine.model.id} on {engine.hardware.accelerator.id}",
            notes=list(dict.fromkeys([*engine.formats.notes, *engine.hardware.notes, *engine.links.notes])),
        ),
    )


def engine_of(case: EngineCase) -> Engine:
    """The engine behind a case, checked. Raises UnknownName, InvalidSpec or Unsupported."""
    catalog = load()
    model = catalog.model(case.model, field="model")
    accelerator = catalog.accelerator(case.accelerator, field="system")
    hardware = hardware_of(accelerator)
    if accelerator.kind == "cpu":
        hardware = _of_cores(hardware, case.cores or 1)
    _check(case)
    errors = check_parallel(
        model,
        tensor_parallel=case.tensor_parallel,
        pipeline_parallel=case.pipeline_parallel,
        expert_parallel=case.moe_expert_parallel,
    )
    if errors:
        raise errors[0]
    return Engine(
        case=case,
        model=model,
        hardware=hardware,
        links=links_of(case, accelerator, catalog),
        formats=resolve_formats(
            model, accelerator, case.engine, gemm=case.gemm_quant, moe=case.moe_quant, kv=case.kv_quant
        ),
        tensor=case.tensor_parallel,
    )


def _check(case: EngineCase) -> None:
    model = load().models[case.model]
    for field, value in (
        ("tp", case.tensor_parallel),
        ("pp", case.pipeline_parallel),
        ("attention_dp", case.attention_data_parallel),
        ("moe_tp", case.moe_tensor_parallel),
        ("moe_ep", case.moe_expert_parallel),
    ):
        if value < 1:
            raise InvalidSpec("a degree is at least 1", field=field, value=value, limit=">= 1")
    width = case.tensor_parallel * case.attention_data_parallel
    experts = case.moe_tensor_parallel * case.moe_expert_parallel
    if model.moe is not None and experts != width:
        raise InvalidSpec(
            f"experts are spread over {experts} ranks, attention over {width}",
            field="moe_ep",
            value=case.moe_expert_parallel,
            limit=f"moe_tp x moe_ep = {width}",
        )


def _of_cores(hardware: Hardware, cores: int) -> Hardware:
    """A CPU rank of several cores: arithmetic grows with them, bandwidth until the socket's channels are full."""
    core = constants()["cpu_core"]
    full = float(core["cores_that_fill_the_channels"])
    return replace(
        hardware,
        peaks_flop_per_s={name: peak * cores for name, peak in hardware.peaks_flop_per_s.items()},
        bandwidth_bytes_per_s=hardware.bandwidth_bytes_per_s * min(float(cores), full),
    )


def _draft_ms(engine: Engine, sequences: Floats) -> Floats:
    """A draft head (multi-token prediction) runs once per drafted token: one layer and the output head each time."""
    drafts = engine.case.draft_tokens
    if drafts == 0:
        return np.zeros_like(sequences)
    return drafts * (engine.rest_ms(sequences, decode=True) / engine.model.layers)


def _knots(first: int, last: int, per_octave: int) -> Floats:
    """Whole numbers from `first` to `last`, `per_octave` of them for each doubling."""
    octaves = np.log2(last / first)
    exact = first * 2.0 ** (np.arange(int(np.ceil(octaves * per_octave)) + 1) / per_octave)
    return np.unique(np.round(np.minimum(exact, last)))
