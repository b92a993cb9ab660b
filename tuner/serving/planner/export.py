"""A planned deployment as what people deploy: an engine's command line, or a ServingDeployment manifest. Pure."""

from __future__ import annotations

import json
import math
import re
import shlex
from typing import Any

from controlplane.catalog import Catalog, Engine, ModelShape
from controlplane.catalog.engines import Scalar
from controlplane.catalog.knobs import merge, render_knobs, render_shape
from controlplane.catalog.params import BYTES_PER_WEIGHT, weight_bytes
from controlplane.model.errors import Unsupported
from controlplane.model.plans import PlannedRole, PlanRequest, ServingCandidate
from controlplane.model.resource import API_VERSION

_CONFIG_FILE = "config.yaml"
_DOWNLOAD_MARGIN = 1.1  # tokenizer, configuration and duplicate formats beside the weights
_DEFAULT_CACHE_GIB = 100  # spec.model.cache.sizeLimit when nothing is said


def launch_lines(candidate: ServingCandidate, model: ModelShape, source: str | None, catalog: Catalog) -> list[str]:
    """One block of shell lines per role: what to start, how often and where. Engines that read a file get it first."""
    out: list[str] = []
    for role in candidate.roles:
        engine = catalog.engine(role.choice.engine)
        out.append(f"# {role.replicas} x {role.role} on {role.choice.accelerator} (pool {role.pool})")
        if role.role != "aggregated":
            out.append("# add the KV connector of your installation: its settings are not part of a plan")
        if _ranks(role) > (catalog.accelerator(role.choice.accelerator).accelerators_per_node or _ranks(role)):
            out.append("# spans nodes: start one process per node with the engine's own rank and leader flags")
        out += _command(role, engine, _model_argument(model, source))
    return out


def manifest(
    candidate: ServingCandidate, request: PlanRequest, model: ModelShape, source: str | None, name: str | None
) -> dict[str, Any]:
    """A ServingDeployment with the plan's shapes as explicit choices, in order. Raises Unsupported for separate roles."""
    if any(role.role != "aggregated" for role in candidate.roles):
        raise Unsupported(
            "separate prefill and decode replicas cannot be written as a ServingDeployment yet",
            field="export",
            value="manifest",
            hint="export the engine's command lines, or plan without --disaggregated",
        )
    where = source or (f"hf:{model.hf_repo}" if model.hf_repo else None)
    if where is None:
        raise Unsupported(
            f"no public repository of {model.id} is known", field="source", hint="say where its weights are: --source"
        )
    spec: dict[str, Any] = {
        "model": {"name": model.id, "source": where},
        "explicit": {
            "choices": [
                role.choice.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
                for role in candidate.roles
            ]
        },
        "replicas": sum(role.replicas for role in candidate.roles),
    }
    limit_gib = _download_gib(model)
    if where.startswith("hf:") and limit_gib is not None and limit_gib > _DEFAULT_CACHE_GIB:
        spec["model"]["cache"] = {"sizeLimit": f"{limit_gib}Gi"}
    slo = request.slo.model_dump(mode="json", by_alias=True, exclude_none=True)
    if slo:
        spec["slo"] = slo
    return {
        "apiVersion": API_VERSION,
        "kind": "ServingDeployment",
        "metadata": {"name": name or re.sub(r"[^a-z0-9]+", "-", model.id.lower()).strip("-")},
        "spec": spec,
    }


def _command(role: PlannedRole, engine: Engine, model: str) -> list[str]:
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
    line = [*words.command, *([model] if words.model_flag is None else [words.model_flag, model])]
    line += [words.host_flag, "0.0.0.0", words.port_flag, str(engine.port)]  # noqa: S104 - as a server is started
    line += settings.args
    out: list[str] = []
    if settings.config and words.config_flag is not None:
        out += [f"cat > {_CONFIG_FILE} <<'EOF'", json.dumps(settings.config, indent=2, sort_keys=True), "EOF"]
        line += [words.config_flag, _CONFIG_FILE]
    return [*out, shlex.join(line)]


def _model_argument(model: ModelShape, source: str | None) -> str:
    """What the engine is told to load: a repository, or the path of a source."""
    if source is None:
        return model.hf_repo or model.id
    scheme, _, rest = source.partition(":")
    return rest if scheme in ("hf", "image", "pvc") and rest else source


def _ranks(role: PlannedRole) -> int:
    choice = role.choice
    return choice.tensor_parallel * choice.pipeline_parallel * choice.data_parallel


def _download_gib(model: ModelShape) -> int | None:
    if model.checkpoint_dtype not in BYTES_PER_WEIGHT:
        return None
    return math.ceil(weight_bytes(model) * _DOWNLOAD_MARGIN / 2**30)
