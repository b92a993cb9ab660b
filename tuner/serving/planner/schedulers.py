"""Scheduler settings worth trying for a shape: the engine's own first, then tighter and wider ones."""

from __future__ import annotations

from controlplane.catalog import Accelerator
from controlplane.model.choice import EngineName
from tuner.serving.planner.shape import Scheduler, Shape

# Token budgets and sequence limits that engines' own tuning guides name; the first entry is the default (see
# tuner/serving/replay/rules.py for where each default is from). A budget bounds how long a decode waits for a prompt
# chunk; a sequence limit bounds the batch, and so TPOT, at the price of waiting.
_BUDGETS = (2048, 512, 16384)
_SEQUENCES = (256, 64)
_DEFAULT_SEQUENCES: dict[EngineName, int] = {"vllm": 1024, "sglang": 4096, "trtllm-serve": 2048, "openvino": 256}
_SMALL_BYTES = 70 * 2**30  # vLLM's line between large and small devices


def schedulers(shape: Shape, longest_input: int) -> list[Scheduler]:
    """Settings in the order they are tried. `longest_input`: engines that do not split prompts by themselves are told to
    where a prompt would not fit into one iteration."""
    engine = shape.case.engine
    if engine == "openvino":
        return [Scheduler(max_num_seqs=_DEFAULT_SEQUENCES[engine], max_num_batched_tokens=n) for n in (256, 1024, 4096)]
    small = is_small(shape.accelerator)
    tokens = 2048 if small and engine in ("vllm", "sglang") else 8192
    sequences = 256 if small and engine == "vllm" else _DEFAULT_SEQUENCES[engine]
    pairs = [(tokens, sequences)]
    pairs += [(budget, sequences) for budget in _BUDGETS if budget != tokens]
    pairs += [(tokens, limit) for limit in _SEQUENCES if limit < sequences]
    return [
        Scheduler(
            max_num_seqs=limit,
            max_num_batched_tokens=budget,
            chunked=True if engine == "trtllm-serve" and budget < longest_input else None,
        )
        for budget, limit in pairs
    ]


def is_small(accelerator: Accelerator) -> bool:
    """Whether engines start with their settings for small devices: below 70 GiB, or an A100."""
    memory_bytes = accelerator.plannable_memory_bytes
    return accelerator.id.startswith("a100") or (memory_bytes is not None and memory_bytes < _SMALL_BYTES)
