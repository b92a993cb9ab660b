"""Operations of one iteration by the papers' conventions: model (nothing counted twice) and hardware (what runs)."""

from __future__ import annotations

from controlplane.model.training import ParallelPlan, TrainingModel


def model_flops(model: TrainingModel, sequences: float, *, causal: bool = False) -> float:
    """Forward and backward of all layers and the output: 72 B s L h^2 (1 + s/6h + V/12Lh) for a plain transformer.

    Attention counts the whole score matrix, masked half included, as the papers do, unless `causal`.
    """
    matrices = 3 if model.gated else 2
    attention = 2 * model.hidden * model.head_dim * (model.heads + model.kv_heads)
    if model.kv_rank:
        queries = model.heads * model.head_dim
        attention = model.q_rank * (model.hidden + queries) if model.q_rank else model.hidden * queries
        attention += model.hidden * (model.kv_rank + model.rope_dim) + model.heads * model.value_dim * model.hidden
        attention += model.kv_rank * model.heads * (model.head_dim - model.rope_dim + model.value_dim)
    dense = matrices * model.hidden * model.ffn
    experts = matrices * model.hidden * (model.top_k * model.expert_ffn + model.shared_ffn)
    weights = model.layers * attention + (model.layers - model.moe_layers) * dense + model.moe_layers * experts
    weights += model.hidden * model.vocab
    width = model.head_dim + (model.value_dim or model.head_dim)
    scores = model.layers * model.seq * model.heads * width * (0.5 if causal else 1.0)
    return 6.0 * sequences * model.seq * (weights + scores)


def recompute_flops(model: TrainingModel, plan: ParallelPlan) -> float:
    """What recomputation adds: one more forward of the layers that are recomputed (full), half of their matrix products
    (operators), or of attention's scores (selective)."""
    sequences = plan.global_batch
    width = model.head_dim + (model.value_dim or model.head_dim)
    scores = 2.0 * sequences * model.layers * model.seq**2 * model.heads * width
    if plan.recompute == "selective":
        return scores if plan.attention == "unfused" else 0.0
    output = 6.0 * sequences * model.seq * model.hidden * model.vocab
    layers = (model_flops(model, sequences) - output) / 3.0
    if plan.recompute == "operators":
        return 0.5 * (layers - scores)
    if plan.recompute == "full":
        return layers * _recomputed(model, plan) / model.layers
    return 0.0


def _recomputed(model: TrainingModel, plan: ParallelPlan) -> int:
    """Layers that run forward twice."""
    if not plan.recompute_layers:
        return model.layers
    short, extra = divmod(model.layers, plan.pp)
    stages = plan.layers_per_stage or (short + 1,) * extra + (short,) * (plan.pp - extra)
    return sum(min(plan.recompute_layers * plan.vpp, layers) for layers in stages)
