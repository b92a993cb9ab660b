"""A plan in the words of a framework: one door to the emitters, and the plan as the operator renders it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from controlplane.catalog import load
from controlplane.model.errors import UnknownName, Unsupported
from controlplane.model.launch import Launch, LaunchPlan, ParallelSettings
from controlplane.model.training import ParallelPlan, TrainingCase
from tuner.training.planner.answer import Ranked, TrainingAnswer
from tuner.training.planner.export import left_to_set, megatron_flags
from tuner.training.planner.export_deepspeed import deepspeed_launch
from tuner.training.planner.export_torchtitan import torchtitan_launch
from tuner.training.planner.export_words import seats, torchrun
from tuner.training.planner.export_zero_bubble import zero_bubble_launch
from tuner.training.planner.launchable import launchable
from tuner.training.planner.ranks import launch_stages, rank_runs
from tuner.training.planner.startable import check_startable

# Before Blackwell, kernels of one stream must not overtake the communication that tensor and context parallelism
# overlap with: Megatron-LM's argument checks ask for a single connection.
_ONE_CONNECTION = {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}
_MANY_CONNECTIONS = ("Blackwell", "Rubin")


def megatron_launch(case: TrainingCase, plan: ParallelPlan) -> Launch:
    """Megatron-LM's training script and its arguments. Raises Unsupported where it has no word for the plan."""
    arguments = tuple(megatron_flags(case, plan))
    gpus = [load().accelerators[pool.gpu] for pool in case.pools]
    old = any(gpu.vendor == "nvidia" and not gpu.architecture.startswith(_MANY_CONNECTIONS) for gpu in gpus)
    return Launch(
        framework="megatron-lm", version=launchable("megatron-lm").version,
        program=(*torchrun(case, plan), "pretrain_gpt.py"), arguments=arguments,
        # Its fully sharded data parallelism asks for the opposite.
        environment=_ONE_CONNECTION if old and plan.tp * plan.cp > 1 and plan.zero < 2 else {},
        notes=(
            *seats(case, plan),
            *left_to_set(case),
        ),
    )  # fmt: skip


EMITTERS: dict[str, Callable[[TrainingCase, ParallelPlan], Launch]] = {
    "megatron": megatron_launch,
    "torchtitan": torchtitan_launch,
    "deepspeed": deepspeed_launch,
    "zero-bubble": zero_bubble_launch,
}
# What a plan that was costed for a framework is launched with, unless told otherwise.
_OWN = {
    "megatron-lm": "megatron", "megatron-deepspeed": "deepspeed", "eager": "deepspeed", "fsdp": "torchtitan",
    "fsdp-compiled": "torchtitan", "megatron-zero-bubble": "zero-bubble",
}  # fmt: skip


def launch_of(target: str, case: TrainingCase, plan: ParallelPlan) -> Launch:
    """The plan for one of EMITTERS. Raises UnknownName, or Unsupported naming the part of the
    plan that the framework cannot be told."""
    if target not in EMITTERS:
        raise UnknownName("is no framework to export to", field="export", value=target, hint=", ".join(EMITTERS))
    if plan.framework in _OWN:
        rules = launchable("megatron-deepspeed" if plan.framework == "eager" else plan.framework)
        check_startable(rules, case.pools, plan.precision, plan.attention)
    return EMITTERS[target](replace(case, plan=plan), plan)


def case_of(answer: TrainingAnswer, item: Ranked) -> TrainingCase:
    """The case of one of an answer's plans."""
    return replace(answer.case, plan=item.plan, stage_pools=item.stage_pools)


def launch_plan(case: TrainingCase, plan: ParallelPlan) -> LaunchPlan:
    """The plan as the operator renders it. `launch` is absent where the framework has no words for it."""
    case = replace(case, plan=plan)
    launch = None
    if plan.framework in _OWN:
        with suppress(Unsupported):
            launch = launch_of(_OWN[plan.framework], case, plan)
    return LaunchPlan(
        parallel=ParallelSettings.of(plan), stages=launch_stages(case, plan), rank_map=rank_runs(case, plan),
        launch=launch,
    )  # fmt: skip


def shell(launch: Launch) -> str:
    """The command as a shell reads it, one argument a line, with what has to be said before and after it."""
    lines = [f"# {launch.framework} {launch.version}", *(f"# {note}" for note in launch.notes)]
    for name, text in launch.files.items():
        lines += [f"cat > {name} <<'END'", text.rstrip("\n"), "END"]
    head = [f"{name}={value}" for name, value in launch.environment.items()]
    return "\n".join(lines) + "\n" + " \\\n  ".join([*head, *launch.program, *launch.arguments])
