"""Which weight and KV formats a plan may use: the checkpoint's own, and what the user's allow-list adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from controlplane.catalog import Engine, ModelShape
from controlplane.model.plans import Allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """One combination. `choice_*` are the engine's words, `*_quant` those of the step tables; None: own format."""

    choice_quantization: str | None = None
    choice_kv: str | None = None
    gemm_quant: str | None = None
    moe_quant: str | None = None
    kv_quant: str | None = None

    @property
    def label(self) -> str:
        """Short form for messages; empty for the checkpoint's own."""
        return " ".join(
            text for text in (self.choice_quantization, f"kv {self.choice_kv}" if self.choice_kv else None) if text
        )


# Engine's word -> (dense layers, experts) in the words of the step tables. Formats that only name a file layout
# (compressed-tensors, quark, modelopt_mixed) do not say what is computed, so they cannot be predicted.
_WEIGHTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "fp8": ("fp8", "fp8"),
        "fp8_per_tensor": ("fp8", "fp8"),
        "fp8_per_block": ("fp8_block", "fp8_block"),
        "modelopt": ("fp8", "fp8"),
        "modelopt_fp8": ("fp8", "fp8"),
        "w8a8_fp8": ("fp8", "fp8"),
        "w8a8_int8": ("sq", "fp8"),
        "awq": ("int4_wo", "int4_wo"),
        "awq_marlin": ("int4_wo", "int4_wo"),
        "gptq": ("int4_wo", "int4_wo"),
        "gptq_marlin": ("int4_wo", "int4_wo"),
        "modelopt_fp4": ("nvfp4", "nvfp4"),
        "int8_per_channel_weight_only": ("int8_wo", "int8_wo"),
    }
)
# Other ways to say the same in an allow-list -> engine's words to try, best first.
_ALSO: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"nvfp4": ("modelopt_fp4",), "int4": ("awq", "gptq"), "int8": ("w8a8_int8", "int8_per_channel_weight_only")}
)
_KV: Mapping[str, str] = MappingProxyType({"fp8": "fp8", "fp8_e4m3": "fp8", "bfloat16": "bfloat16", "int8": "int8"})
_OWN = frozenset({"auto", "checkpoint", "own"})


def precisions(
    model: ModelShape, engine: Engine, allowed: Allowed, own: tuple[str | None, str | None, str | None] = (None,) * 3
) -> tuple[list[Precision], list[str]]:
    """Combinations to plan with, and why entries of the allow-lists add none for this engine. `own`: formats (dense,
    experts, KV cache) that the checkpoint's repository name states; None: those of the catalogue's model."""
    refused: list[str] = []
    weights = _weights(model, engine, allowed, refused)
    caches = _caches(engine, allowed, refused)
    out: list[Precision] = []
    for word in weights:
        gemm, moe = own[:2] if word is None else _WEIGHTS[word]
        for cache in caches:
            out.append(
                Precision(
                    choice_quantization=word,
                    choice_kv=cache,
                    gemm_quant=gemm,
                    moe_quant=moe if model.is_moe else None,
                    kv_quant=own[2] if cache is None else _KV[cache],
                )
            )
    return out, refused


def _weights(model: ModelShape, engine: Engine, allowed: Allowed, refused: list[str]) -> list[str | None]:
    if not allowed.quantizations:
        return [None]
    out: list[str | None] = []
    for name in allowed.quantizations:
        if name in _OWN or name == model.checkpoint_dtype:
            out.append(None)
            continue
        words = [word for word in (name, *_ALSO.get(name, ())) if word in engine.quantizations and word in _WEIGHTS]
        if words:
            out.append(words[0])
        elif not engine.quantizations:
            refused.append(f"{engine.id} reads the weight format from the checkpoint, so {name} needs another one")
        elif name in engine.quantizations:
            refused.append(f"{name} names a file layout of {engine.id}, not what is computed: no prediction")
        else:
            refused.append(f"{engine.id} has no weight format {name}")
    return list(dict.fromkeys(out))


def _caches(engine: Engine, allowed: Allowed, refused: list[str]) -> list[str | None]:
    if not allowed.kv_quantizations:
        return [None]
    knob = engine.knob("kvCacheDtype")
    out: list[str | None] = []
    for name in allowed.kv_quantizations:
        if name in _OWN or name in ("bf16", "bfloat16"):
            out.append(None)
        elif knob is not None:
            words = [word for word in (name, f"{name}_e4m3") if word in knob.allowed and word in _KV]
            if words:
                out.append(words[0])
            else:
                refused.append(f"{engine.id} has no KV cache format {name}")
        else:
            refused.append(f"{engine.id} has no setting for the KV cache format {name}")
    return list(dict.fromkeys(out))
