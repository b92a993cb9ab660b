"""What the memory model knows beforehand, as a margin: GiB left for the KV cache on the fullest rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from controlplane.model.errors import Unsupported
from controlplane.model.tuning import Margin
from tuner.serving.case import EngineCase
from tuner.serving.memory import MemoryBudget, memory_budget, request_kv_bytes

_GIB = 2**30
# How wrong the model may be: recorded engines differ from it by a few percent of the device's memory.
_SLACK_SHARE = 0.08
_TOKENS = (512, 32768)


def memory_margin(
    case: EngineCase,
    names: Mapping[str, str],
    *,
    tensor_parallel: Sequence[int],
    stages: Sequence[int],
    devices: int,
    fraction_most: float,
    longest_tokens: int,
    searched: frozenset[str],
) -> Margin | None:
    """`names`: the knobs `fraction` and `tokens` of the engine. None where the device's memory is unknown.

    Raises Unsupported where no degrees that `devices` hold leave room with the largest share, with the bytes."""
    budgets = {tp: _budgets(replace(case, tensor_parallel=tp)) for tp in tensor_parallel}
    capacity = budgets[tensor_parallel[0]][0].capacity_bytes
    if capacity is None:
        return None
    allowed = [(tp, pp) for tp in tensor_parallel for pp in stages if tp * pp <= devices]
    most_first = sorted(
        allowed or [(max(tensor_parallel), max(stages))], key=lambda pair: (-pair[0] * pair[1], -pair[0])
    )
    ranks = [replace(case, tensor_parallel=tp, pipeline_parallel=pp) for tp, pp in most_first]
    check_room(ranks, fraction=fraction_most, longest_tokens=longest_tokens)
    terms = {tp: _fixed_term(pair, names["tokens"]) for tp, pair in budgets.items()}
    kept = {tp: request_kv_bytes(replace(case, tensor_parallel=tp), longest_tokens) / _GIB for tp in tensor_parallel}
    fixed, request = _by_degree(terms, searched), _by_degree({tp: f"{one:.4g}" for tp, one in kept.items()}, searched)
    if "pipelineParallel" in searched:  # a stage's share; what does not shrink with it is within the slack
        fixed, request = f"({fixed}) / pipelineParallel", f"({request}) / pipelineParallel"
    room = f"{capacity / _GIB:.5g}"
    share = names["fraction"]
    of_free = case.engine == "trtllm-serve"
    expression = f"{share} * ({room} - {fixed}) - {request}" if of_free else f"{share} * {room} - {fixed} - {request}"
    if len(expression) > 512:
        return None  # more degrees than an expression holds: p(ok) is learned without it
    return Margin(
        expression=expression,
        slack=round(_SLACK_SHARE * capacity / _GIB, 3),
        message="weights and activations leave no memory for the KV cache: a larger share, fewer batched tokens or "
        "more ranks",
    )


def check_room(ranks: Sequence[EngineCase], *, fraction: float | None, longest_tokens: int) -> None:
    """`ranks`: degrees there may be, the most devices first; `fraction`: the largest share of memory, None: the
    engine's own.

    Raises Unsupported where no request of that length has room in any, with the bytes of the first."""
    for case in ranks:
        least = memory_budget(case, max_num_tokens=_TOKENS[0], fraction=fraction)
        if least.capacity_bytes is None or (least.kv_bytes or 0) >= request_kv_bytes(case, longest_tokens):
            return
    largest = ranks[0]
    least = memory_budget(largest, max_num_tokens=_TOKENS[0], fraction=fraction)
    raise Unsupported(
        f"{largest.model} does not fit: {least.fixed_bytes:,} bytes of weights, activations and runtime on each of "
        f"{largest.tensor_parallel * largest.pipeline_parallel} devices of {least.capacity_bytes:,} bytes leave no room "
        f"for one request of {longest_tokens} tokens",
        field="target.model",
        value=largest.model,
        hint="more devices, a device with more memory, or a smaller or quantised model",
    )


def _budgets(case: EngineCase) -> tuple[MemoryBudget, MemoryBudget]:
    few, many = _TOKENS
    return memory_budget(case, max_num_tokens=few), memory_budget(case, max_num_tokens=many)


def _fixed_term(pair: tuple[MemoryBudget, MemoryBudget], tokens: str) -> str:
    """GiB taken by everything else, a line in the tokens of a step."""
    few, many = (budget.fixed_bytes / _GIB for budget in pair)
    slope = (many - few) / (_TOKENS[1] - _TOKENS[0])
    return f"({few - slope * _TOKENS[0]:.5g} + {slope:.4g} * {tokens})"


def _by_degree(terms: Mapping[int, str], searched: frozenset[str]) -> str:
    if len(terms) == 1 or "tensorParallel" not in searched:
        return next(iter(terms.values()))
    *others, last = terms.items()
    out = last[1]
    for degree, term in reversed(others):
        out = f"({term} if tensorParallel == {degree} else {out})"
    return out
