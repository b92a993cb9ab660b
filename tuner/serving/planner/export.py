"""A planned deployment as what people deploy: command lines of engines and router, or a ServingDeployment. Pure."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Any

from controlplane.catalog import Catalog, Engine, ModelShape
from controlplane.catalog.connectors import CONNECTORS
from controlplane.catalog.engines import REVISION_FLAGS, Scalar
from controlplane.catalog.knobs import merge, render_knobs, render_shape
from controlplane.catalog.params import BYTES_PER_WEIGHT, weight_bytes
from controlplane.catalog.router_lines import router_args, router_program
from controlplane.model.choice import AcceleratorChoice
from controlplane.model.errors import Unsupported
from controlplane.model.plans import PlannedRole, PlanRequest, ServingCandidate
from controlplane.model.resource import API_VERSION
from controlplane.model.routing import Routing

MODEL_FOLDER = "/model"  # where a claim with weights is mounted
_CONFIG_FILE = "config.yaml"
_DOWNLOAD_MARGIN = 1.1  # tokenizer, configuration and duplicate formats beside the weights
_DEFAULT_CACHE_GIB = 100  # spec.model.cache.sizeLimit when nothing is said


def launch_lines(
    candidate: ServingCandidate,
    model: ModelShape,
    source: str | None,
    catalog: Catalog,
    routing: Routing | None = None,
) -> list[str]:
    """One block of shell lines per role: what to start, how often and where. Engines that read a file get it first.
    The router comes last."""
    out: list[str] = []
    for role in candidate.roles:
        engine = catalog.engine(role.choice.engine)
        out.append(f"# {role.replicas} x {role.role} on {role.choice.accelerator} (pool {role.pool})")
        if _ranks(role) > (catalog.accelerator(role.choice.accelerator).accelerators_per_node or _ranks(role)):
            out.append("# spans nodes: start one process per node with the engine's own rank and leader flags")
        out += _command(role, engine, source_of(model, source))
    return out + _router_lines(candidate, catalog, routing or Routing())


def _router_lines(candidate: ServingCandidate, catalog: Catalog, routing: Routing) -> list[str]:
    """The router's command line, with a name to fill in for every replica."""
    if routing.router == "service":
        return []
    if routing.router == "gateway-inference-extension":
        return ["# in front: a gateway with the inference extension; --export manifest asks Trimtab for its objects"]
    words: list[str] = []
    number: Counter[str] = Counter()
    split = is_split(candidate)
    for role in candidate.roles:
        port = catalog.engine(role.choice.engine).port
        connector = CONNECTORS.get(role.choice.engine)
        for _ in range(role.replicas):
            number[role.role] += 1
            url = f"http://{role.role.upper() if split else 'REPLICA'}_{number[role.role]}:{port}"
            if not split:
                words.append(url)
                continue
            words += [f"--{role.role}", url]
            if role.role == "prefill" and connector is not None and connector.port_annotation is not None:
                words.append(str(connector.port))
    workers = tuple(words if split else ["--worker-urls", *words])
    args = router_args(routing.router, routing.picks_by, split=split, workers=workers)
    return [
        f"# in front: {routing.router}; put the replicas' host names in",
        shlex.join([*router_program(routing.router), *args]),
    ]


def is_split(candidate: ServingCandidate) -> bool:
    """Whether prefill and decode replicas are separate."""
    return any(role.role != "aggregated" for role in candidate.roles)


def manifest(
    candidate: ServingCandidate, request: PlanRequest, model: ModelShape, source: str | None, name: str | None
) -> dict[str, Any]:
    """A ServingDeployment with the plan's shapes as explicit choices in order, or as those of each role."""
    where = source or (f"hf:{model.hf_repo}" if model.hf_repo else None)
    if where is None:
        raise Unsupported(
            f"no public repository of {model.id} is known", field="source", hint="say where its weights are: --source"
        )
    spec: dict[str, Any] = {
        "model": {"name": model.id, "source": where},
        **_replicas(candidate),
    }
    if request.routing != Routing():
        spec["routing"] = _plain(request.routing)
    limit_gib = _download_gib(model)
    if where.startswith("hf:") and limit_gib is not None and limit_gib > _DEFAULT_CACHE_GIB:
        spec["model"]["cache"] = {"sizeLimit": f"{limit_gib}Gi"}
    slo = request.slo.model_dump(mode="json", by_alias=True, exclude_none=True)
    if slo:
        spec["slo"] = slo
    return {
        "apiVersion": API_VERSION,
        "kind": "ServingDeployment",
        "metadata": {"name": object_name(model, name)},
        "spec": spec,
    }


def lost_split(candidate: ServingCandidate) -> str | None:
    """What a mix of pools loses as explicit choices, which are an order of preference; None where nothing is lost."""
    if is_split(candidate) or len(candidate.roles) < 2:
        return None
    shares = " + ".join(f"{role.replicas} in {role.pool}" for role in candidate.roles)
    return (
        f"the plan splits its replicas, {shares}; explicit choices are tried in order, so all of them go to the first "
        "with room: use spec.auto, which keeps the split, or --export kubernetes, a Deployment for each share"
    )


def object_name(model: ModelShape, name: str | None) -> str:
    """The name given, or the model's as an object may be called."""
    return name or re.sub(r"[^a-z0-9]+", "-", model.id.lower()).strip("-")


def _replicas(candidate: ServingCandidate) -> dict[str, Any]:
    """`explicit` or `roles`, and `replicas`: with roles the greatest number of equal sets."""
    if not is_split(candidate):
        total = sum(role.replicas for role in candidate.roles)
        return {"explicit": {"choices": [_plain(role.choice) for role in candidate.roles]}, "replicas": total}
    parts = {name: [role for role in candidate.roles if role.role == name] for name in ("prefill", "decode")}
    sets = math.gcd(*(sum(role.replicas for role in roles) for roles in parts.values()))
    return {
        "roles": {
            name: {
                "replicas": sum(role.replicas for role in roles) // sets,
                "choices": [_plain(role.choice) for role in roles],
            }
            for name, roles in parts.items()
        },
        "replicas": sets,
    }


def _plain(part: AcceleratorChoice | Routing) -> dict[str, Any]:
    found: dict[str, Any] = part.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    return found


def _command(role: PlannedRole, engine: Engine, source: Source) -> list[str]:
    out, environment, line = engine_line(role, engine, source)
    return [*out, " ".join([*environment, shlex.join(line)])]


def engine_line(role: PlannedRole, engine: Engine, source: Source) -> tuple[list[str], list[str], list[str]]:
    """Shell lines that write the engine's file, variables it needs, and its command line."""
    choice, words = role.choice, engine.launch
    shape: dict[str, Scalar] = {
        "tensorParallel": choice.tensor_parallel,
        "pipelineParallel": choice.pipeline_parallel,
        "dataParallel": choice.data_parallel,
        "expertParallel": choice.expert_parallel,
    }
    if choice.quantization is not None and engine.knob("quantization") is not None:
        shape["quantization"] = choice.quantization
    settings = merge(render_shape(engine, shape), render_knobs(engine, choice.knobs))
    model = source.model
    line = [*words.command, *([model] if words.model_flag is None else [words.model_flag, model])]
    if source.revision is not None and engine.id in REVISION_FLAGS:
        line += [REVISION_FLAGS[engine.id], source.revision]
    line += [words.host_flag, "0.0.0.0", words.port_flag, str(engine.port)]  # noqa: S104 - as a server is started
    line += settings.args
    environment: list[str] = []
    connector = CONNECTORS.get(engine.id) if role.role != "aggregated" else None
    if connector is not None:
        line += connector.args[role.role.capitalize()]
        if connector.host_variable is not None:
            environment.append(f"{connector.host_variable}=$(hostname -i)")
        if connector.port_variable is not None:
            environment.append(f"{connector.port_variable}={connector.port}")
    out: list[str] = []
    if settings.config and words.config_flag is not None:
        out += [f"cat > {_CONFIG_FILE} <<'EOF'", json.dumps(settings.config, indent=2, sort_keys=True), "EOF"]
        line += [words.config_flag, _CONFIG_FILE]
    return out, environment, line


@dataclass(frozen=True, slots=True)
class Source:
    """What the engine is told to load: a repository with its revision, or a path. `claim`: the volume it is on."""

    model: str
    revision: str | None = None
    claim: str | None = None


def source_of(model: ModelShape, source: str | None) -> Source:
    """A source as `spec.model.source` has it; the model's public repository when absent."""
    scheme, _, rest = (source or "").partition(":")
    if scheme == "pvc" and rest:
        claim, _, path = rest.partition("/")
        return Source(f"{MODEL_FOLDER}/{path}".rstrip("/"), claim=claim)
    if scheme == "image" and rest:
        return Source(rest)
    repository, _, revision = (rest if scheme == "hf" and rest else source or model.hf_repo or model.id).partition("@")
    return Source(repository, revision or None)


def _ranks(role: PlannedRole) -> int:
    choice = role.choice
    return choice.tensor_parallel * choice.pipeline_parallel * choice.data_parallel


def _download_gib(model: ModelShape) -> int | None:
    if model.checkpoint_dtype not in BYTES_PER_WEIGHT:
        return None
    return math.ceil(weight_bytes(model) * _DOWNLOAD_MARGIN / 2**30)
