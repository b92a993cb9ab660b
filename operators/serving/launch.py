"""The engine's command line in each pod of a replica, from the catalogue's facts about the engine. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from controlplane.catalog import Engine, ModelShape
from controlplane.catalog.engines import REVISION_FLAGS, MultiNode, Scalar
from controlplane.catalog.knobs import Rendered, merge, render_knobs, render_shape
from controlplane.model.serving import AcceleratorChoice, ReplicaRole
from operators.serving import mpi
from operators.serving.roles import role_args
from operators.serving.shape import Shape
from operators.serving.source import Source

CONFIG_FOLDER = "/etc/trimtab/engine"
CONFIG_FILE = "config.yaml"

# SGLang's ranks above 0 answer /health on the serving port once their schedulers are ready (entrypoints/engine.py,
# "non-zero rank nodes"); vLLM's headless ranks and MPI workers listen on nothing that speaks HTTP.
WORKERS_ANSWER_HEALTH = frozenset({"sglang"})

POD_IP = "POD_IP"  # variable of the engine container in gangs


@dataclass(frozen=True, slots=True)
class Gang:
    """Addresses of a replica that spans pods: host names by rank, the leader's first."""

    hosts: tuple[str, ...]

    @property
    def leader(self) -> str:
        return self.hosts[0]


@dataclass(frozen=True, slots=True)
class EngineLaunch:
    """What a replica's command lines are made of, placement apart."""

    engine: Engine
    shape: Shape
    choice: AcceleratorChoice
    source: Source
    served_name: str
    settings: Rendered
    role: ReplicaRole = "Aggregated"

    @property
    def config(self) -> Mapping[str, object]:
        """Content of the engine's configuration file; empty when it needs none."""
        return self.settings.config


def plan_launch(
    engine: Engine,
    shape: Shape,
    choice: AcceleratorChoice,
    source: Source,
    served_name: str,
    role: ReplicaRole = "Aggregated",
) -> EngineLaunch:
    """Settings in the engine's own words. Expects a choice that passed `validate`."""
    watch = Rendered(engine.metrics.enable_args, dict(engine.metrics.enable_config))
    settings = merge(
        render_shape(engine, shape_fields(engine, choice)), render_knobs(engine, _knobs(engine, choice)), watch
    )
    return EngineLaunch(engine, shape, choice, source, served_name, settings, role)


def shape_fields(engine: Engine, choice: AcceleratorChoice) -> dict[str, Scalar]:
    """Parallel degrees by field name; the weight format too where the engine has a flag for it (elsewhere it is a
    property of the checkpoint)."""
    fields: dict[str, Scalar] = {
        "tensorParallel": choice.tensor_parallel,
        "pipelineParallel": choice.pipeline_parallel,
        "dataParallel": choice.data_parallel,
        "expertParallel": choice.expert_parallel,
    }
    if choice.quantization is not None and engine.knob("quantization") is not None:
        fields["quantization"] = choice.quantization
    return fields


def served_model(engine: Engine, name: str, source: Source) -> str:
    """The name under which the engine answers: the one asked for, or what it derives from the model argument where it
    has no flag for a name (trtllm-serve: the last part of a folder's path, or the repository id)."""
    if engine.launch.served_name_flag is not None:
        return name
    return source.model if source.scheme == "hf" else source.model.rpartition("/")[2]


def command(
    launch: EngineLaunch, rank: int, gang: Gang | None, drain_s: int, exported_env: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """`command` and `args` of the engine container of one rank.

    `drain_s` goes to engines that are told how long in-flight requests may take. `exported_env` names the variables an
    MPI launcher must carry to the other pods.
    """
    multi = launch.engine.multi_node
    serve = [*launch.engine.launch.command, *_serve_args(launch, drain_s)]
    if gang is None or multi is None:
        return serve[: len(launch.engine.launch.command)], serve[len(launch.engine.launch.command) :]
    if multi.style == "mpi":
        if rank > 0:
            return mpi.worker()
        return mpi.leader(
            [*multi.launcher, *serve],
            ranks=launch.shape.ranks,
            hosts=gang.hosts,
            slots=launch.shape.ranks_per_pod,
            exported_env=exported_env,
        )
    head = len(launch.engine.launch.command)
    return serve[:head], [*serve[head:], *_gang_args(launch, multi, rank, gang)]


def _knobs(engine: Engine, choice: AcceleratorChoice) -> dict[str, Scalar]:
    knobs: dict[str, Scalar] = dict(choice.knobs)
    if "cpu" in engine.accelerator_kinds and engine.knob("numThreads") is not None:
        # A CPU engine sees every core of the node and would start a thread on each, whatever the pod may use.
        knobs.setdefault("numThreads", max(1, (choice.cpu_millicores or 1000) // 1000))
    return knobs


def _serve_args(launch: EngineLaunch, drain_s: int) -> list[str]:
    words = launch.engine.launch
    args = [launch.source.model] if words.model_flag is None else [words.model_flag, launch.source.model]
    if words.served_name_flag is not None:
        args += [words.served_name_flag, launch.served_name]
    if launch.source.revision is not None:
        args += [REVISION_FLAGS[launch.engine.id], launch.source.revision]
    args += [words.host_flag, "0.0.0.0", words.port_flag, str(launch.engine.port)]  # noqa: S104 - a pod's own address
    args += [literal(text) for text in launch.settings.args]
    args += role_args(launch.engine, launch.role)
    if launch.config and words.config_flag is not None:
        args += [words.config_flag, f"{CONFIG_FOLDER}/{CONFIG_FILE}"]
    if launch.engine.drain.timeout_flag is not None:
        args += [launch.engine.drain.timeout_flag, str(drain_s)]
    return args


def literal(text: str) -> str:
    """Kubernetes replaces $(NAME) in arguments; a setting must not pull a secret variable onto the command line."""
    return text.replace("$(", "$$(")


def _gang_args(launch: EngineLaunch, multi: MultiNode, rank: int, gang: Gang) -> list[str]:
    """Flags by which the pods of a gang find each other. Data parallel ranks need none of their own: vLLM and SGLang
    infer them from the node rank."""
    leader = gang.leader
    if multi.leader_address == "host:port":
        leader = f"{gang.leader}:{multi.leader_port}"
    elif rank == 0:
        leader = f"$({POD_IP})"  # it listens here, and ZeroMQ binds to addresses, not to names
    args: list[str] = []
    for flag, value in (
        (multi.node_count_flag, launch.shape.pods),
        (multi.node_rank_flag, rank),
        (multi.leader_flag, leader),
        (multi.leader_port_flag, multi.leader_port),
    ):
        if flag is not None:
            args += [flag, str(value)]
    return args + list(multi.worker_args) if rank > 0 else args


def why_no_data_parallel(engine: Engine, model: ModelShape) -> str | None:
    """Why data parallel ranks inside one engine are refused for this model; None when they are fine."""
    if engine.tensor_flag_counts_data_parallel and not model.is_moe and model.mla is None:
        return f"{engine.id} shares attention over data parallel ranks only for MoE and latent-attention models"
    return None
