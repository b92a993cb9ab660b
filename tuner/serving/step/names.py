"""Catalogue ids to the names that the measured tables use. Reads facts only; the tables' package is not imported."""

from __future__ import annotations

import json

from controlplane import catalog
from controlplane.catalog import ModelShape
from tuner.serving.case import EngineCase

# Backends of aiconfigurator-core. openvino has no measured tables.
BACKENDS = {"vllm": "vllm", "sglang": "sglang", "trtllm-serve": "trtllm"}

# Catalogue models whose own repository ids are not shipped with the tables, and the shipped id of the same shape.
# The catalogue keeps quantised repackagings under one id; the plain checkpoint comes first where both are shipped.
_SAME_SHAPE = {
    "llama-3-8b": "meta-llama/Meta-Llama-3.1-8B",
    "llama-3-70b": "meta-llama/Meta-Llama-3.1-70B",
    "llama-3.3-70b": "meta-llama/Meta-Llama-3.1-70B",
    "glm-5": "zai-org/GLM-5",
}


def system_name(accelerator: str) -> str | None:
    """Name of an accelerator's measured tables. None: it has none."""
    return catalog.load().accelerator(accelerator, field="accelerator").aiconfigurator_system


def backend_name(engine: str) -> str | None:
    """Name of an engine's measured tables. None: it has none."""
    return BACKENDS.get(engine)


def model_candidates(case: EngineCase) -> tuple[str, ...]:
    """Repository ids under which the tables may know the model, best first."""
    model = catalog.load().model(case.model, field="model")
    named = [_SAME_SHAPE.get(model.id), model.hf_repo, *model.aliases]
    return tuple(dict.fromkeys(name for name in named if name is not None))


def plain_config(case: EngineCase) -> str | None:
    """A `config.json` with the model's shape, for plain decoder stacks. None: the shape has parts that it cannot say.

    Biases and head norms are left out: they cost nothing that the tables measure.
    """
    model = catalog.load().model(case.model, field="model")
    if not _is_plain(model) or model.ffn is None:
        return None
    return json.dumps(
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "num_hidden_layers": model.layers,
            "hidden_size": model.hidden,
            "num_attention_heads": model.heads,
            "num_key_value_heads": model.kv_heads,
            "head_dim": model.head_dim,
            "intermediate_size": model.ffn,
            "vocab_size": model.vocab,
            "max_position_embeddings": model.max_context_tokens or 131_072,
            "torch_dtype": "bfloat16",
        },
        sort_keys=True,
    )


def _is_plain(model: ModelShape) -> bool:
    special = (model.mla, model.moe, model.linear, model.sliding_window, model.learned_positions, model.embedding_dim)
    bf16 = model.checkpoint_dtype in (None, "bf16", "bfloat16", "fp16", "float16")
    return model.gated_ffn and bf16 and all(item is None for item in special)
