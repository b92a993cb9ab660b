"""Engine settings of a question, sorted by what they change: admission rules, KV memory, or nothing we model.

Every setting of the catalogue's engine is accepted, in its own spelling or with underscores (`max_num_seqs`), plus a few
words that mean the same for every engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.catalog import Engine, load, unknown
from controlplane.catalog.knobs import check_knobs
from controlplane.model.choice import EngineName
from controlplane.model.errors import InvalidSpec
from tuner.serving.question import KnobValue

# Words for every engine -> the catalogue's field. Fields of one engine only are spelled by that engine.
_COMMON = {
    "maxNumSeqs": "maxNumSeqs",
    "maxNumBatchedTokens": "maxNumBatchedTokens",
    "blockSize": "blockSize",
    "prefixCaching": "enablePrefixCaching",
    "enablePrefixCaching": "enablePrefixCaching",
    "chunkedPrefill": "enableChunkedPrefill",
    "enableChunkedPrefill": "enableChunkedPrefill",
}
_FRACTION: dict[EngineName, str] = {
    "vllm": "gpuMemoryUtilization",
    "sglang": "memFractionStatic",
    "trtllm-serve": "freeGpuMemoryFraction",
}
_KV_BLOCKS = {"vllm": "numGpuBlocksOverride", "openvino": "numKvBlocks"}
_KV_TOKENS = {"sglang": "maxTotalTokens", "trtllm-serve": "maxKvTokens"}
# What the replay reads (`replay.rules.rules_with_knobs`).
ADMISSION = frozenset(
    {
        *("maxNumSeqs", "maxNumBatchedTokens", "blockSize", "enablePrefixCaching", "enableChunkedPrefill"),
        *("longPrefillTokenThreshold", "maxNumPartialPrefills", "schedulingPolicy"),
        *("chunkedPrefillSize", "maxPrefillTokens", "enableMixedChunk", "scheduleConservativeness"),
        *("schedulerRecvInterval", "batchWaitTimeoutIters", "batchWaitMaxTokensRatio", "overlapScheduler"),
        *("asyncScheduling", "attentionDpBalance", "attentionDpTimeoutIters"),
        "dynamicSplitFuse",
    }
)
_MODELLED = ADMISSION | {*_FRACTION.values(), *_KV_BLOCKS.values(), *_KV_TOKENS.values(), "kvCacheDtype"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`admission` in catalogue names; None: the engine's own default. `ignored`: accepted, but nothing here models it.
    `remarks`: combinations the engine would refuse or pass over."""

    admission: Mapping[str, KnobValue] = field(default_factory=dict)
    kv_blocks: int | None = None  # of each attention rank
    kv_tokens: int | None = None
    memory_fraction: float | None = None
    block_tokens: int | None = None
    kv_format: str | None = None
    ignored: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def read_knobs(engine_name: EngineName, knobs: Mapping[str, KnobValue], *, path: str = "knobs") -> Settings:
    """Raises UnknownName for a setting the engine does not have (the nearest is named) and InvalidSpec for a value
    it would refuse."""
    engine = load().engine(engine_name)
    named: dict[str, KnobValue] = {}
    kv_blocks: int | None = None
    for given, value in knobs.items():
        name = _camel(given)
        if name == "kvBlocks":
            kv_blocks = _count(value, f"{path}.{given}")
            continue
        if name == "memoryFraction" and engine_name in _FRACTION:
            name = _FRACTION[engine_name]
        name = _COMMON.get(name, name)
        if engine.knob(name) is None and name not in _COMMON.values():
            raise unknown(f"{engine_name} setting", given, _words(engine, engine_name), field=f"{path}.{given}")
        if name in named:
            raise InvalidSpec("is given twice", field=f"{path}.{given}", value=value)
        named[name] = value
    remarks = []
    for error in check_knobs(engine, {key: value for key, value in named.items() if engine.knob(key)}, field=path):
        if error.limit is None and isinstance(error, InvalidSpec):
            remarks.append(str(error))  # settings that do not go together: a prediction still has an answer
        else:
            raise error
    for key, value in named.items():
        if engine.knob(key) is None:
            _check_common(key, value, f"{path}.{key}")
    fraction, blocks, tokens = (named.get(names.get(engine_name, "")) for names in (_FRACTION, _KV_BLOCKS, _KV_TOKENS))
    block, kv_format = named.get("blockSize"), named.get("kvCacheDtype")
    return Settings(
        admission={key: value for key, value in named.items() if key in ADMISSION},
        kv_blocks=kv_blocks or (int(blocks) if blocks else None),
        kv_tokens=int(tokens) if tokens else None,
        memory_fraction=None if fraction is None else float(fraction),
        block_tokens=None if block is None else int(block),
        kv_format=None if kv_format in (None, "auto") else str(kv_format),
        ignored=tuple(sorted(key for key in named if key not in _MODELLED)),
        remarks=tuple(remarks),
    )


def _check_common(name: str, value: KnobValue, path: str) -> None:
    """A common word that this engine's catalogue entry does not list: the rules read it all the same."""
    if name.startswith("enable"):
        if not isinstance(value, bool):
            raise InvalidSpec("must be true or false", field=path, value=value, limit="true, false")
    else:
        _count(value, path)


def _count(value: KnobValue, path: str) -> int:
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(whole, bool) or not isinstance(whole, int) or not 1 <= whole <= 2**31:
        raise InvalidSpec("must be a whole number", field=path, value=value, limit=f"1 to {2**31}")
    return whole


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def _words(engine: Engine, engine_name: EngineName) -> list[str]:
    """All that may be written, with underscores."""
    fields = {knob.field for knob in engine.knobs} | set(_COMMON) | {"kvBlocks"}
    if engine_name in _FRACTION:
        fields.add("memoryFraction")
    return sorted({"".join(f"_{char.lower()}" if char.isupper() else char for char in name) for name in fields})
