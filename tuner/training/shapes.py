"""A model of the catalogue as the fields of a training question."""

from __future__ import annotations

from typing import Any

from controlplane.catalog.models import ModelShape
from controlplane.model.errors import Unsupported


def catalogue_shape(model: ModelShape) -> dict[str, Any]:
    """`model` of a question. Raises Unsupported where an attention has no cost here."""
    if model.linear is not None or (model.mla is not None and model.mla.index_topk is not None):
        raise Unsupported(
            "linear and sparse attention have no training cost here", field="model", value=model.id,
            hint="give a plain shape: layers=..,hidden=..,heads=..,vocab=..",
        )  # fmt: skip
    shape: dict[str, Any] = {
        "layers": model.layers, "hidden": model.hidden, "heads": model.heads, "kv_heads": model.kv_heads,
        "head_dim": model.head_dim, "vocab": model.vocab, "gated": model.gated_ffn, "tied": model.tied_embeddings,
        "dropout": not model.gated_ffn,
    }  # fmt: skip
    if model.ffn is not None:
        shape["ffn"] = model.ffn
    if (mla := model.mla) is not None:
        shape |= {
            "q_rank": mla.q_lora_rank or 0, "kv_rank": mla.kv_lora_rank, "rope_dim": mla.qk_rope_head_dim,
            "value_dim": mla.v_head_dim,
        }  # fmt: skip
    if (moe := model.moe) is not None:
        shape |= {
            "experts": moe.experts, "top_k": moe.experts_per_token, "expert_ffn": moe.ffn,
            "shared_ffn": moe.shared_experts * (moe.shared_ffn or moe.ffn),
            "moe_layers": model.layers - moe.dense_layers_first,
        }  # fmt: skip
        shape.setdefault("ffn", moe.ffn)
    return shape
