"""Choices that a framework never launches, told before anything is searched: which framework does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlplane.catalog.frameworks import THEORETICAL, TrainingFramework, training_frameworks
from controlplane.model.errors import UnknownName, Unsupported

# Names of programs, and the frameworks that stand for their launches.
_PROGRAMS = {
    "deepspeed": "megatron-deepspeed", "megatron": "megatron-lm", "torchtitan": "fsdp",
    "zero-bubble": "megatron-zero-bubble",
}  # fmt: skip


def check_framework_name(name: str) -> None:
    """Raises UnknownName for a program's name, with the framework's."""
    if name in _PROGRAMS:
        raise UnknownName(
            f"{name!r} is a program's name", field="framework", value=name, hint=f"did you mean {_PROGRAMS[name]}?"
        )


def check_launched(rules: TrainingFramework, fixed: Mapping[str, tuple[Any, ...]], attention: str) -> None:
    """Raises Unsupported where no value of a choice is one that the framework has."""
    own = _known(rules, attention)
    for name, values in fixed.items():
        if name not in own or any(value in own[name] for value in values):
            continue
        said = f"{name}={','.join(map(str, values))}"
        others = [
            other for other, row in training_frameworks().items()
            if other != THEORETICAL and any(value in _known(row, attention)[name] for value in values)
        ]  # fmt: skip
        hint = f"{' and '.join(others)} can: say it as the framework" if others else (
            "no framework with a table does; --theoretical, without this choice, costs it apart"
        )  # fmt: skip
        raise Unsupported(
            f"{rules.framework} {rules.version} does not launch {said}", field=f"fix.{name}", value=said,
            limit=", ".join(map(str, own[name])), hint=hint,
        )  # fmt: skip


def _known(rules: TrainingFramework, attention: str) -> dict[str, tuple[Any, ...]]:
    return {
        "schedule": rules.schedules,
        "recompute": rules.recompute[attention],
        "zero": tuple(sorted({*rules.zero, *rules.zero_without_pipeline})),
        "cp_mode": rules.cp_modes or ("ring",),
        "sharding_groups": rules.sharding_groups,
        "optimizer_offload": ("none", *rules.optimizer_offload),
        "vocab_parallel": rules.vocab_parallel,
    }
