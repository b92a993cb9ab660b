"""Number formats of weights, activations and KV cache: bytes, and which arithmetic they run on.

The words are those of the measured step tables (`fp8_block`, `w4a16_mxfp4`), so that one word means the same to every
source of step times. `canonical_*` also take the words of the catalogue and of engines' flags (`bf16`, `awq`, `auto`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from controlplane.catalog import Accelerator, ModelShape, nearest
from controlplane.model.choice import EngineName
from controlplane.model.errors import UnknownName, Unsupported

Arithmetic = Literal["bf16", "fp8", "fp4", "int8"]


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How a weight matrix is stored and multiplied. `bytes_per_weight` includes the format's scales."""

    word: str
    bytes_per_weight: float
    arithmetic: Arithmetic
    activation_bytes: float

    @property
    def weight_only(self) -> bool:
        """Whether weights are widened to 16 bits before they are multiplied."""
        return self.arithmetic == "bf16" and self.word not in ("bfloat16", "float32")

    @property
    def scaled_at_run_time(self) -> bool:
        """Whether activations are narrowed in a kernel of their own, with scales found from their values."""
        return self.arithmetic != "bf16" and self.word != "fp8_static"


# Scales: fp8_block has one 32-bit scale per 128 x 128 block; grouped int4 one 16-bit scale per 128 weights (AWQ,
# GPTQ); MX formats one 8-bit scale per 32 (OCP Microscaling 1.0); NVFP4 one 8-bit scale per 16; GGUF blocks of 32
# weights with a 16-bit scale (llama.cpp).
_FORMATS: tuple[WeightFormat, ...] = (
    WeightFormat("float32", 4.0, "bf16", 4.0),
    WeightFormat("bfloat16", 2.0, "bf16", 2.0),
    WeightFormat("int8_wo", 1.0 + 2 / 128, "bf16", 2.0),
    WeightFormat("int4_wo", 0.5 + 2 / 128, "bf16", 2.0),
    WeightFormat("q8_0", 34 / 32, "bf16", 2.0),
    WeightFormat("q4_0", 18 / 32, "bf16", 2.0),
    WeightFormat("fp8", 1.0, "fp8", 1.0),
    WeightFormat("fp8_static", 1.0, "fp8", 1.0),
    WeightFormat("fp8_ootb", 1.0, "fp8", 1.0),
    WeightFormat("fp8_block", 1.0 + 4 / 128**2, "fp8", 1.0),
    WeightFormat("sq", 1.0, "int8", 1.0),
    WeightFormat("nvfp4", 0.5 + 1 / 16, "fp4", 0.5 + 1 / 16),
    WeightFormat("nvfp4_wo", 0.5 + 1 / 16, "bf16", 2.0),
    WeightFormat("w4a16_nvfp4", 0.5 + 1 / 16, "bf16", 2.0),
    WeightFormat("w4afp8", 0.5 + 2 / 128, "fp8", 1.0),
    WeightFormat("w4a16_mxfp4", 0.5 + 1 / 32, "bf16", 2.0),
    WeightFormat("w4a16_mxfp4_cutlass", 0.5 + 1 / 32, "bf16", 2.0),
    WeightFormat("w4a8_mxfp4_mxfp8", 0.5 + 1 / 32, "fp8", 1.0 + 1 / 32),
    WeightFormat("w4a8_mxfp4_mxfp8_trtllm", 0.5 + 1 / 32, "fp8", 1.0 + 1 / 32),
)
WEIGHT_FORMATS = {item.word: item for item in _FORMATS}
_WEIGHT_ALIASES = {
    "fp32": "float32",
    "f32": "float32",
    "bf16": "bfloat16",
    "fp16": "bfloat16",
    "f16": "bfloat16",
    "float16": "bfloat16",
    "half": "bfloat16",
    "none": "bfloat16",
    "int8": "int8_wo",
    "w8a16": "int8_wo",
    "int4": "int4_wo",
    "w4a16": "int4_wo",
    "awq": "int4_wo",
    "gptq": "int4_wo",
    "w8a8": "sq",
    "w8a8_int8": "sq",
    "smoothquant": "sq",
    "fp4": "nvfp4",
    "modelopt_fp4": "nvfp4",
    "mxfp4": "w4a16_mxfp4",
    "mxfp8": "fp8",
}
KV_BYTES = {"bfloat16": 2.0, "int8": 1.0, "fp8": 1.0, "float32": 4.0}
_KV_ALIASES = {
    "bf16": "bfloat16",
    "fp16": "bfloat16",
    "f16": "bfloat16",
    "float16": "bfloat16",
    "half": "bfloat16",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
    "u8": "int8",
    "i8": "int8",
    "fp32": "float32",
    "f32": "float32",
}


@dataclass(frozen=True, slots=True)
class Formats:
    """Formats one engine runs a model in, and what had to be substituted."""

    gemm: WeightFormat
    moe: WeightFormat
    kv_bytes: float
    notes: tuple[str, ...] = ()


def canonical_weight(word: str, *, field: str | None = None) -> str:
    """The tables' word for a weight format. Raises UnknownName."""
    return _canonical(word, WEIGHT_FORMATS, _WEIGHT_ALIASES, "weight format", field)


def canonical_kv(word: str, *, field: str | None = None) -> str:
    """The tables' word for a KV cache format. Raises UnknownName."""
    return _canonical(word, KV_BYTES, _KV_ALIASES, "KV cache format", field)


def checkpoint_formats(model: ModelShape) -> tuple[str, str, str]:
    """(dense, expert, KV) formats the catalogue's checkpoint is published in.

    FP8 checkpoints of the catalogue are block-scaled; MXFP4 and int4 ones quantise only the experts.
    """
    dtype = model.checkpoint_dtype or "bf16"
    if dtype == "fp8":
        return "fp8_block", "fp8_block", "bfloat16"
    if dtype in ("mxfp4", "int4") and model.moe is not None:
        return "bfloat16", canonical_weight(dtype), "bfloat16"
    word = "bfloat16" if dtype == "fp32" else canonical_weight(dtype)
    return word, word, "bfloat16"


def resolve_formats(
    model: ModelShape,
    accelerator: Accelerator,
    engine: EngineName,
    *,
    gemm: str | None,
    moe: str | None,
    kv: str | None,
) -> Formats:
    """Formats as this accelerator and engine run them. Raises UnknownName or Unsupported with the field at fault."""
    own_gemm, own_moe, own_kv = checkpoint_formats(model)
    notes: list[str] = []
    dense = _runnable(canonical_weight(gemm or own_gemm, field="gemm_quant"), accelerator, engine, "gemm_quant", notes)
    experts = dense
    if model.moe is not None:
        experts = _runnable(
            canonical_weight(moe or own_moe, field="moe_quant"), accelerator, engine, "moe_quant", notes
        )
    kv_word = canonical_kv(kv or own_kv, field="kv_quant")
    return Formats(gemm=dense, moe=experts, kv_bytes=KV_BYTES[kv_word], notes=tuple(dict.fromkeys(notes)))


def _runnable(word: str, accelerator: Accelerator, engine: EngineName, field: str, notes: list[str]) -> WeightFormat:
    """The format itself where the accelerator multiplies it, else the same bytes widened to 16 bits before the
    multiplication, which vLLM and SGLang offer from compute capability 8.0 on (their Marlin kernels)."""
    wanted = WEIGHT_FORMATS[word]
    if wanted.arithmetic == "bf16" or accelerator.peak_flop_per_s(wanted.arithmetic) is not None:
        return wanted
    capability = float(accelerator.compute_capability or 0)
    if wanted.arithmetic in ("fp8", "fp4") and engine in ("vllm", "sglang") and capability >= 8.0:
        notes.append(f"{accelerator.id} has no {wanted.arithmetic} arithmetic: {word} weights, bf16 multiplication")
        return WeightFormat(f"{word}_widened", wanted.bytes_per_weight, "bf16", 2.0)
    raise Unsupported(
        f"{accelerator.name} has no {wanted.arithmetic} arithmetic, which {word} needs",
        field=field,
        value=word,
        limit="bfloat16 or a weight-only format (int8_wo, int4_wo)",
        hint="allow another weight format or another accelerator",
    )


def _canonical(word: str, known: Mapping[str, object], aliases: dict[str, str], what: str, field: str | None) -> str:
    names = set(known) | set(aliases)
    plain = word.strip().lower().replace("-", "_")
    if plain in aliases:
        return aliases[plain]
    if plain in names:
        return plain
    close = nearest(plain, sorted(names))
    raise UnknownName(
        f"unknown {what} {word!r}",
        field=field,
        value=word,
        hint=f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(names))}",
    )
