"""The one door to the measured operator tables of aiconfigurator-core (Apache-2.0, an optional extra).

Everything the package can answer with an exception becomes a `Miss` with a stable kind; nothing here goes to the
network, because only model ids whose configuration ships with the package are ever asked for.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from controlplane.model.errors import Unsupported
from tuner.serving.step.operators import split, summed, weight_format
from tuner.serving.step.query import Miss, Query, as_miss
from tuner.serving.step.quick_load import counts_lanes_once, reads_with_libyaml

VERSION = "0.12.0"  # the one release this module was written against (pyproject.toml pins it)
_DISTRIBUTION = "aiconfigurator-core"
# The package unloads an accelerator's tables with the last engine that uses them, and loading takes about a CPU
# second: the last engine of each of the latest few table sets stays referenced.
_KEPT_TABLE_SETS = 6
_kept: OrderedDict[tuple[str, str, str, str], Any] = OrderedDict()


def installed() -> bool:
    """Whether the measured tables are there. Does not import them."""
    return importlib.util.find_spec("aiconfigurator_core") is not None


def require() -> None:
    """Raises Unsupported, with the way out, unless the tables are there in the release this module knows."""
    if not installed():
        raise Unsupported(
            "the measured step tables (aiconfigurator-core) are not installed",
            field="engine",
            hint="pip install 'trimtab[aiconfigurator]' (x86-64 Linux, Python below 3.14)",
        )
    found = metadata.version(_DISTRIBUTION)
    if found != VERSION:
        raise Unsupported(
            "another release of the measured step tables is installed",
            field="engine",
            value=found,
            limit=f"{_DISTRIBUTION}=={VERSION}",
            hint="pip install 'trimtab[aiconfigurator]'",
        )


@cache
def shipped_models() -> frozenset[str]:
    """Repository ids whose configuration ships with the package. Empty when it is not installed."""
    spec = importlib.util.find_spec("aiconfigurator_core")
    if spec is None or spec.origin is None:
        return frozenset()
    suffix = "_config.json"
    return frozenset(
        path.name.removesuffix(suffix).replace("--", "/", 1)
        for path in (Path(spec.origin).parent / "model_configs").glob(f"*{suffix}")
        if not path.name.endswith("_quant_config.json")
    )


@dataclass(frozen=True, slots=True)
class LightOps:
    """Operators with a speed-of-light formula, as JSON lists: communication and some linear attention have none."""

    context_rest: str
    context_attention: str
    decode_rest: str
    decode_attention: str


@dataclass(frozen=True, slots=True)
class MeasuredParts:
    """One compiled engine. `handle` is the package's own object, for its whole-step calls."""

    query: Query  # with the literal version
    handle: Any
    context_rest: list[int]
    context_attention: list[int]
    decode_rest: list[int]
    decode_attention: list[int]
    slow: bool  # whether attention takes about 110 us to ask, not 2 to 40
    light: LightOps
    gemm_format: str | None  # of the dense layers, resolved; None: the model has none of the kind
    moe_format: str | None

    def context_ms(self, tokens: int) -> float:
        return summed(self.handle.evaluate_context_ops(self.context_rest, batch_size=1, s=tokens))

    def decode_ms(self, sequences: int) -> float:
        batch = sequences * (1 + self.query.draft_tokens)
        return summed(self.handle.evaluate_generation_ops(self.decode_rest, batch_size=batch, s=2))

    def context_attention_ms(self, batch: int, new: int, past: int) -> float:
        return summed(self.handle.evaluate_context_ops(self.context_attention, batch_size=batch, s=new, prefix=past))

    def decode_attention_ms(self, sequences: int, kv: int) -> float:
        # one more than what is cached: the token being computed attends to itself
        batch = sequences * (1 + self.query.draft_tokens)
        return summed(self.handle.evaluate_generation_ops(self.decode_attention, batch_size=batch, s=kv + 1))

    def context_light_ms(self, tokens: int) -> float:
        """Speed-of-light time of the operators that have one: a lower bound of `context_ms`."""
        return self._light(self.light.context_rest, is_context=True, batch_size=1, s=tokens)

    def decode_light_ms(self, sequences: int) -> float:
        batch = sequences * (1 + self.query.draft_tokens)
        return self._light(self.light.decode_rest, is_context=False, batch_size=batch, s=2)

    def context_attention_light_ms(self, batch: int, new: int, past: int) -> float:
        return self._light(self.light.context_attention, is_context=True, batch_size=batch, s=new, prefix=past)

    def decode_attention_light_ms(self, sequences: int, kv: int) -> float:
        batch = sequences * (1 + self.query.draft_tokens)
        return self._light(self.light.decode_attention, is_context=False, batch_size=batch, s=kv + 1)

    def _light(self, ops: str, **shape: Any) -> float:
        return summed(self.handle.evaluate_ops_sol_json(ops, **shape))

    def notes(self) -> list[str]:
        """What of the answer was carried over from elsewhere, in the package's words."""
        found: set[str] = set()
        self.handle.decode_step_latency(16, 2048, 2)
        found.add(str(self.handle.last_provenance()))
        self.handle.predict_prefill_latency(1, 2048, 0)
        found.add(str(self.handle.last_provenance()))
        notes = [f"utilisation borrowed ({word})" for word in sorted(found - {"None"})]
        if self.query.config is not None:
            notes.append("the tables ship no configuration of this model: made from the catalogue's shape")
        return notes


def compile_query(query: Query) -> MeasuredParts:
    """The engine of a query, checked to answer one prefill, one decode and one mixed iteration. Raises Miss."""
    require()
    try:
        parts = _compile(query)
        _probe(parts)
    except Exception as error:
        raise as_miss(error) from error
    return parts


def estimate_ms(query: Query, *, isl: int, osl: int, batch: int) -> tuple[float, float]:
    """(TTFT, TPOT) by the package's own estimate of a whole aggregated run from mean lengths and the batch of a rank:
    what our predictions are compared with. Raises Miss."""
    require()
    try:
        from aiconfigurator_core.sdk.backends.factory import get_backend  # noqa: PLC0415
        from aiconfigurator_core.sdk.config import RuntimeConfig  # noqa: PLC0415

        model, database, _ = _opened(query)
        run = RuntimeConfig(batch_size=batch, isl=isl, osl=osl)
        found = get_backend(query.backend).run_agg(model, database, run, ctx_tokens=isl).get_result_dict() or {}
        ttft_ms, tpot_ms = float(found["ttft"]), float(found["tpot"])
    except Exception as error:
        raise as_miss(error) from error
    if not (0.0 < ttft_ms < 1e9 and 0.0 < tpot_ms < 1e9):
        raise Miss("no-value", f"estimated {ttft_ms} and {tpot_ms} ms")
    return ttft_ms, tpot_ms


def _compile(query: Query) -> MeasuredParts:
    import aiconfigurator_core  # noqa: PLC0415
    from aiconfigurator_core.sdk import EngineHandle  # noqa: PLC0415
    from aiconfigurator_core.sdk.engine import build_engine_spec_json  # noqa: PLC0415

    model, database, version = _opened(query)
    spec = build_engine_spec_json(
        model,
        model_path=query.model,
        system=query.system,
        backend=query.backend,
        backend_version=version,
        kv_block_size=None,
        systems_path=None,
        nextn=query.draft_tokens,
        database=database,
    )
    handle = EngineHandle(bytes(aiconfigurator_core.engine_spec_bincode_from_json(spec)))
    _keep((query.system, query.backend, version, query.mode), handle)
    decoded = json.loads(spec)
    context_rest, context_attention = split(
        len(decoded["context_ops"]),
        lambda i: [
            summed(handle.evaluate_context_ops([i], batch_size=1, s=256, prefix=past)) for past in (0, 64, 8192)
        ],
    )
    decode_rest, decode_attention = split(
        len(decoded["generation_ops"]),
        lambda i: [summed(handle.evaluate_generation_ops([i], batch_size=16, s=s)) for s in (2, 64, 8192)],
    )
    return MeasuredParts(
        query=replace(query, version=version),
        handle=handle,
        context_rest=context_rest,
        context_attention=context_attention,
        decode_rest=decode_rest,
        decode_attention=decode_attention,
        slow=any("DsaContext" in op for op in decoded["context_ops"]),
        light=LightOps(
            context_rest=_with_light(handle, decoded["context_ops"], context_rest, is_context=True),
            context_attention=_with_light(handle, decoded["context_ops"], context_attention, is_context=True),
            decode_rest=_with_light(handle, decoded["generation_ops"], decode_rest, is_context=False),
            decode_attention=_with_light(handle, decoded["generation_ops"], decode_attention, is_context=False),
        ),
        gemm_format=weight_format(decoded["context_ops"], "Gemm"),
        moe_format=weight_format(decoded["context_ops"], "Moe"),
    )


def _opened(query: Query) -> tuple[Any, Any, str]:
    """The package's model and database of a query, and the literal version of its tables."""
    if query.config is None and query.model not in shipped_models():  # the package would look for it on the network
        raise Miss("model-unknown", f"{query.model} has no configuration in {_DISTRIBUTION} {VERSION}")
    from aiconfigurator_core.sdk import attention_lanes, engine_table_view, perf_database  # noqa: PLC0415
    from aiconfigurator_core.sdk.config_builders import apply_nextn, build_model_config  # noqa: PLC0415
    from aiconfigurator_core.sdk.models import get_model  # noqa: PLC0415

    for module in (perf_database, attention_lanes):
        reads_with_libyaml(module)
    counts_lanes_once(engine_table_view)
    # its warnings name files of the installation; what they say reaches people as provenance instead
    logging.getLogger("aiconfigurator_core").setLevel(logging.ERROR)
    version = perf_database.resolve_query_version(query.system, query.backend, query.version)
    database = perf_database.get_database_view(
        query.system,
        query.backend,
        version,
        database_mode=query.mode,
        allow_missing_data=query.mode == "SOL",
    )
    if database is None:
        raise Miss("system-unknown", f"no tables of {query.backend} {version} on {query.system}")
    config = build_model_config(
        tp_size=query.tensor_parallel,
        pp_size=query.pipeline_parallel,
        attention_dp_size=query.attention_data_parallel,
        moe_tp_size=query.moe_tensor_parallel,
        moe_ep_size=query.moe_expert_parallel,
        gemm_quant_mode=query.gemm_quant,
        kvcache_quant_mode=query.kv_quant,
        fmha_quant_mode=query.fmha_quant,
        moe_quant_mode=query.moe_quant,
    )
    apply_nextn(config, query.draft_tokens)
    if query.config is None:
        return get_model(query.model, config, query.backend), database, version
    with tempfile.TemporaryDirectory(prefix="trimtab-") as folder:  # it reads other models' shapes from a file only
        (Path(folder) / "config.json").write_text(query.config)
        return get_model(folder, config, query.backend), database, version


def _keep(tables: tuple[str, str, str, str], handle: Any) -> None:
    _kept[tables] = handle
    _kept.move_to_end(tables)
    if len(_kept) > _KEPT_TABLE_SETS:
        _kept.popitem(last=False)


def _with_light(handle: Any, ops: list[Any], chosen: list[int], *, is_context: bool) -> str:
    kept = []
    for i in chosen:
        try:
            handle.evaluate_ops_sol_json(json.dumps([ops[i]]), is_context=is_context, batch_size=1, s=16)
        except (RuntimeError, ValueError):  # no formula for this operator
            continue
        kept.append(ops[i])
    return json.dumps(kept)


def _probe(parts: MeasuredParts) -> None:
    """A compiled engine may still lack a table: ask for one prefill, one decode and one mixed iteration."""
    handle = parts.handle
    answers = {
        "prefill": handle.predict_prefill_latency(1, 2048, 0),
        "decode": handle.decode_step_latency(16, 2048, 2),
        "mixed": handle.mixed_step_latency(512, 8, 2048, 512),
        "long chunk": parts.context_attention_ms(1, 512, 32768) + parts.context_ms(512),
        "single token": parts.context_attention_ms(1, 1, 0) + parts.context_ms(1),
    }
    for what, value in answers.items():
        if not 0.0 < value < 1e9:
            raise Miss("no-value", f"{what} iteration answered {value} ms")
