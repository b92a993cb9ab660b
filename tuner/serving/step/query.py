"""What can be asked of the measured tables, in their own words, and why there may be no answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

QueryMode = Literal["SILICON", "HYBRID", "EMPIRICAL", "SOL"]
MissKind = Literal[
    "table-miss",  # the shape or quantisation was not measured
    "nothing-to-borrow",  # nor is there a measurement whose utilisation could be carried over
    "quantisation-not-on-accelerator",
    "model-unknown",
    "version-unlisted",
    "quantisation-unknown",
    "shape-refused",  # heads or expert widths that do not divide
    "system-unknown",
    "no-value",  # answered, but not with a finite positive time
    "package-error",
]

GEMM_QUANTS = (
    "bfloat16", "int8_wo", "int4_wo", "fp8", "fp8_static", "sq", "fp8_block", "fp8_ootb", "nvfp4", "nvfp4_wo",
    "w4a16_nvfp4",
)  # fmt: skip
MOE_QUANTS = (
    "bfloat16", "fp8", "int4_wo", "fp8_block", "w4afp8", "nvfp4", "nvfp4_wo", "w4a16_mxfp4", "w4a8_mxfp4_mxfp8",
    "w4a8_mxfp4_mxfp8_trtllm", "w4a16_mxfp4_cutlass", "w4a16_nvfp4",
)  # fmt: skip
KV_QUANTS = ("bfloat16", "int8", "fp8")


class Miss(Exception):
    """The tables have no answer. `kind` is stable, `detail` is one line for people."""

    def __init__(self, kind: MissKind, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One engine in the package's own words. `version` is a literal or a slot (current, previous, next).

    `config` is the text of a `config.json` for a model whose configuration does not ship with the package.
    """

    model: str
    config: str | None = None
    system: str
    backend: str
    version: str = "current"
    mode: QueryMode = "SILICON"
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    attention_data_parallel: int = 1
    moe_tensor_parallel: int = 1
    moe_expert_parallel: int = 1
    gemm_quant: str | None = None
    moe_quant: str | None = None
    kv_quant: str | None = None
    fmha_quant: str | None = None
    draft_tokens: int = 0


_BY_NAME: dict[str, MissKind] = {
    "PerfDataNotAvailableError": "table-miss",
    "InterpolationDataNotAvailableError": "table-miss",
    "EmpiricalNotImplementedError": "nothing-to-borrow",
    "SolNotImplementedError": "nothing-to-borrow",
    "MissingSystemFlopsError": "quantisation-not-on-accelerator",
    "HuggingFaceDownloadError": "model-unknown",
    "UnsupportedWideepConfigError": "table-miss",
}


def as_miss(error: Exception) -> Miss:
    """The package's exception as a Miss. What is none of its documented ones is a package error."""
    if isinstance(error, Miss):
        return error
    text = " ".join(str(error).split()).removeprefix("perf database error: ")
    text = text.split(" at /")[0].split(" New way:")[0][:200] or type(error).__name__
    seen: BaseException | None = error
    while seen is not None:
        kind = _BY_NAME.get(type(seen).__name__)
        if kind is not None:
            return Miss(kind, text)
        seen = seen.__cause__
    if isinstance(error, KeyError):
        return Miss("quantisation-unknown", text)
    if isinstance(error, AssertionError):
        return Miss("shape-refused", text)
    if isinstance(error, ValueError):
        if "version" in text and ("slot" in text or "unlisted" in text):
            return Miss("version-unlisted", text)
        if "queryable versions" in text or "backend_version is required" in text or "system" in text:
            return Miss("system-unknown", text)
        return Miss("shape-refused", text)
    return Miss("package-error", f"{type(error).__name__}: {text}")
