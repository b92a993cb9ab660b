"""From a user's words to an EngineCase: names of models, accelerators and engines in any of their spellings.

`fields` are those of one line of the batch interface (`model, system, backend, tp, ...`). Names that nobody knows
raise UnknownName with the nearest known ones; numbers that cannot work together raise InvalidSpec.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from controlplane.catalog import Accelerator, Catalog, ModelShape, load, unknown
from controlplane.catalog.detect import accelerator_of_product
from controlplane.model.choice import EngineName
from controlplane.model.errors import InvalidSpec
from tuner.serving.case import EngineCase
from tuner.serving.step.roofline_formats import canonical_kv, canonical_weight

_ENGINES: dict[str, EngineName] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "trtllm": "trtllm-serve",
    "trtllm-serve": "trtllm-serve",
    "tensorrt-llm": "trtllm-serve",
    "tensorrtllm": "trtllm-serve",
    "openvino": "openvino",
    "openvino-genai": "openvino",
}
# Short names people write, where several catalogue entries share them: the usual form of the data centre part.
_SHORT_NAMES = {
    "v100": "v100-sxm2-32gb",
    "v100-sxm": "v100-sxm2-32gb",
    "v100-pcie": "v100-pcie-16gb",
    "a100": "a100-sxm-80gb",
    "a100-40gb": "a100-sxm-40gb",
    "a100-80gb": "a100-sxm-80gb",
    "a100-pcie": "a100-pcie-80gb",
    "h100": "h100-sxm-80gb",
    "h100-80gb": "h100-sxm-80gb",
    "h200": "h200-sxm-141gb",
    "gh200": "gh200-96gb",
    "rtx-pro-6000": "rtx-pro-6000-server",
    "rtx-6000": "rtx-6000-ada",
    "mi250x": "mi250x-gcd-64gb",
    "cpu": "cpu-x86",
}
_MAX_DEGREE = 4096
# Suffixes of repository names that state a format: (dense, experts, KV cache).
_BLOCK_FP8 = ("fp8_block", "fp8_block", None)
_TENSOR_FP8 = ("fp8_static", "fp8", "fp8")
_NVFP4 = ("nvfp4", "nvfp4", "fp8")


def engine_case(fields: Mapping[str, Any]) -> EngineCase:
    """The engine one line describes. Raises UnknownName or InvalidSpec with the field at fault."""
    catalog = load()
    name = _text(fields, "model")
    model = find_model(catalog, name)
    accelerator = find_accelerator(catalog, _text(fields, "system"))
    engine = find_engine(_text(fields, "backend"))
    tp = _degree(fields, "tp", 1)
    dp = _degree(fields, "attention_dp", 1)
    moe_tp, moe_ep = _moe_widths(fields, model, tp, dp)
    gemm, moe, kv = formats_of_name(name)
    nic = _optional_text(fields, "nic")
    return EngineCase(
        model=model.id,
        accelerator=accelerator.id,
        engine=engine,
        engine_version=_optional_text(fields, "backend_version"),
        tensor_parallel=tp,
        pipeline_parallel=_degree(fields, "pp", 1),
        attention_data_parallel=dp,
        moe_tensor_parallel=moe_tp,
        moe_expert_parallel=moe_ep,
        gemm_quant=_own_format(model, _format(fields, "gemm_quant", gemm), gemm),
        moe_quant=_own_format(model, _format(fields, "moe_quant", moe), moe) if model.moe is not None else None,
        kv_quant=_format(fields, "kv_quant", kv),
        draft_tokens=_degree(fields, "draft_tokens", 0, least=0, most=64),
        nic=None if nic is None else catalog.nic(nic, field="nic").id,
        nics_per_node=_optional_degree(fields, "nics_per_node"),
        accelerators_per_node=_optional_degree(fields, "accelerators_per_node"),
        cores=_optional_degree(fields, "cores"),
    )


def find_model(catalog: Catalog, name: str, *, field: str = "model") -> ModelShape:
    """Model by id, repository id or alias, a format suffix (`-FP8`, `-NVFP4`, `-AWQ`) aside. Raises UnknownName."""
    for candidate in (name, _FORMAT_SUFFIX.sub("", name)):
        found = catalog.find_model(candidate)
        if found is not None:
            return found
    short = _FORMAT_SUFFIX.sub("", name).split("/")[-1].lower()
    owners = {known: id for known, id in sorted(catalog.model_names.items()) if known.split("/")[-1] == short}
    if len(set(owners.values())) == 1:
        return catalog.models[next(iter(owners.values()))]
    raise unknown("model", name, set(catalog.models) | _spelled(catalog), field=field)


def find_accelerator(catalog: Catalog, name: str, *, field: str = "system") -> Accelerator:
    """Accelerator by catalogue id, name of its measured tables, product label or usual short name. Raises
    UnknownName."""
    plain = _plain_system(name)
    for item in catalog.accelerators.values():
        if plain in (_plain_system(item.id), _plain_system(item.aiconfigurator_system or ""), _plain_system(item.name)):
            return item
    if plain in _SHORT_NAMES:
        return catalog.accelerators[_SHORT_NAMES[plain]]
    product = accelerator_of_product(catalog, name)
    if product is not None:
        return product
    ends = [item for item in catalog.accelerators.values() if _names(item.id, plain)]
    if len(ends) == 1:
        return ends[0]
    tables = {item.aiconfigurator_system for item in catalog.accelerators.values() if item.aiconfigurator_system}
    raise unknown("accelerator", name, set(catalog.accelerators) | tables | set(_SHORT_NAMES), field=field)


def find_engine(name: str, *, field: str = "backend") -> EngineName:
    """Engine by its name or a usual spelling. Raises UnknownName."""
    found = _ENGINES.get(name.strip().lower().replace("_", "-"))
    if found is None:
        raise unknown("engine", name, _ENGINES, field=field)
    return found


_FORMAT_SUFFIX = re.compile(
    r"-(fp8(-(static|dynamic|static-pertensor|block))?|nvfp4|fp4|awq|gptq(-int[48])?|int[48]|bf16)$", re.IGNORECASE
)


def formats_of_name(name: str) -> tuple[str | None, str | None, str | None]:
    """(dense, expert, KV) formats that a repository's name states; None where it says nothing.

    Publishers differ: FP8 repositories of NVIDIA and Red Hat scale whole tensors or channels, those of the model
    makers scale blocks.
    """
    found = _FORMAT_SUFFIX.search(name)
    if found is None:
        return None, None, None
    suffix = found.group(1).lower()
    owner = name.split("/", maxsplit=1)[0].lower() if "/" in name else ""
    if suffix in ("nvfp4", "fp4"):
        return _NVFP4
    if suffix.startswith("fp8"):
        per_tensor = owner in ("nvidia", "redhatai", "neuralmagic", "amd") or suffix.startswith(("fp8-s", "fp8-d"))
        return _TENSOR_FP8 if per_tensor else _BLOCK_FP8
    if suffix == "bf16":
        return "bfloat16", "bfloat16", None
    word = "int8_wo" if suffix.endswith("int8") else "int4_wo"
    return word, word, None


def _moe_widths(fields: Mapping[str, Any], model: ModelShape, tp: int, dp: int) -> tuple[int, int]:
    """(moe_tp, moe_ep); what is not given follows from `moe_tp x moe_ep == tp x attention_dp`."""
    moe_tp, moe_ep = _optional_degree(fields, "moe_tp"), _optional_degree(fields, "moe_ep")
    if model.moe is None:
        if (moe_tp or 1) * (moe_ep or 1) == tp * dp:
            return 1, 1  # exports repeat the width of attention for dense models
        for field, value in (("moe_tp", moe_tp), ("moe_ep", moe_ep)):
            if value is not None and value > 1:
                raise InvalidSpec(f"{model.id} has no experts", field=field, value=value, limit="1")
        return 1, 1
    width = tp * dp
    if moe_ep is None:
        moe_ep = 1 if moe_tp is None else max(1, width // moe_tp)
    if moe_tp is None:
        moe_tp = max(1, width // moe_ep)
    if moe_tp * moe_ep != width:
        raise InvalidSpec(
            f"experts are spread over {moe_tp} x {moe_ep} = {moe_tp * moe_ep} ranks, attention over {tp} x {dp} = {width}",
            field="moe_ep" if fields.get("moe_ep") is not None else "moe_tp",
            value=moe_tp * moe_ep,
            limit=f"moe_tp x moe_ep = {width}",
            hint=f"for example moe_tp {width} and moe_ep 1, or moe_tp 1 and moe_ep {width}",
        )
    return moe_tp, moe_ep


def _format(fields: Mapping[str, Any], field: str, default: str | None) -> str | None:
    word = _optional_text(fields, field)
    if word is None or word.lower() == "auto":
        return default
    return canonical_kv(word, field=field) if field == "kv_quant" else canonical_weight(word, field=field)


def _own_format(model: ModelShape, word: str | None, named: str | None) -> str | None:
    """`fp8` and `nvfp4` are also what people call any checkpoint of 8 or 4 bits: where the checkpoint has a format of
    that width itself, or the repository's name states one, that is meant."""
    if word == "fp8" and named is not None and named.startswith("fp8"):
        return named
    loose = (word == "fp8" and model.checkpoint_dtype == "fp8") or (
        word == "nvfp4" and model.checkpoint_dtype == "mxfp4"
    )
    return named if loose else word


def _text(fields: Mapping[str, Any], field: str) -> str:
    value = _optional_text(fields, field)
    if value is None:
        raise InvalidSpec("missing", field=field, hint=f"every case names its {field}")
    return value


def _optional_text(fields: Mapping[str, Any], field: str) -> str | None:
    value = fields.get(field)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > 300:
        raise InvalidSpec("not a short text", field=field, value=str(value)[:80], limit="at most 300 characters")
    return value.strip()


def _optional_degree(fields: Mapping[str, Any], field: str) -> int | None:
    return None if fields.get(field) is None else _degree(fields, field, 1)


def _degree(fields: Mapping[str, Any], field: str, default: int, *, least: int = 1, most: int = _MAX_DEGREE) -> int:
    value = fields.get(field)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InvalidSpec("not a whole number in range", field=field, value=value, limit=f"{least} to {most}")
    return value


def _plain_system(name: str) -> str:
    """Lower case, one dash between words, without the vendor's name."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    plain = re.sub(r"^(nvidia|amd|intel)-", "", plain)
    plain = re.sub(r"^(geforce|instinct|tesla|radeon|arc-pro|quadro)-", "", plain)
    return re.sub(r"^rtx(?=\d)", "rtx-", plain)


def _names(id: str, plain: str) -> bool:
    """Whether the words of a short name start or end the id: `mi300x` names `mi300x-192gb`, `a6000` `rtx-a6000`."""
    return id.startswith(f"{plain}-") or id.endswith(f"-{plain}")


def _spelled(catalog: Catalog) -> set[str]:
    return {name for model in catalog.models.values() for name in (model.hf_repo, *model.aliases) if name}
