"""What the replicas of a deployment do under the traffic they have, as measured runs: their metrics pages, read twice."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.catalog import Engine, load
from controlplane.cli.measured_pages import check_same_engine, measured_between, page_names
from controlplane.kube import PODS, Forbidden, KubeClient, KubeError, NotFound, Resource, load_access
from controlplane.model import labels
from controlplane.model.choice import AcceleratorChoice
from controlplane.model.errors import InvalidSpec, Refused, Unsupported
from controlplane.model.resource import GROUP, VERSION
from controlplane.model.serving import ServingDeployment
from telemetry.collectors.engine import BadMetricsPage, parse
from tuner.serving.calibration.measurement import read_measurement, with_case

_DEPLOYMENTS = Resource(GROUP, VERSION, "servingdeployments", "ServingDeployment")
_MILLICORES_PER_CORE = 1000
_TELL_S = 1.0

Sample = Mapping[str, float]
Samples = Mapping[str, Sample]  # by replica


@dataclass(frozen=True, slots=True)
class Observed:
    """Which deployment, through which kubeconfig (None: the usual places)."""

    name: str
    namespace: str
    kubeconfig: str | None = None


async def observed_runs(
    what: Observed, case: Mapping[str, Any], seconds: float, windows: int, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One line of the batch interface with `measured` for each of `windows` spans of `seconds`. `case` comes on top of
    what the deployment says; without arrivals in it, requests are taken to come at random at the rate that was seen.
    Raises InvalidSpec, Unsupported or Refused."""
    try:
        access = await load_access(what.kubeconfig)
        async with KubeClient(access, user_agent="trimtab-calibrate") as client:
            deployment = ServingDeployment.model_validate_json(
                await client.get(_DEPLOYMENTS, what.name, what.namespace)
            )
            pods = await _replicas(client, what)
            engine = load().engine(pods[0]["metadata"]["labels"][labels.ENGINE])
            said = _case_of(deployment, pods, case)
            lines: list[dict[str, Any]] = []
            begun_s, early = time.monotonic(), await _sample(client, pods, engine)
            for window in range(windows):
                await _wait(begun_s + seconds, lambda left, at=window: tell(_progress(left, at, windows)))  # type: ignore[misc]
                ended_s, late = time.monotonic(), await _sample(client, pods, engine)
                lines.append(_line(early, late, ended_s - begun_s, said, f"{what.name}-{window + 1}"))
                begun_s, early = ended_s, late
            return lines
    except KubeError as error:
        raise _refused(error, what) from error


def _line(early: Samples, late: Samples, seconds: float, case: Mapping[str, Any], name: str) -> dict[str, Any]:
    for pod, sample in late.items():
        # Replica by replica: what the others counted meanwhile would hide that one began anew.
        check_same_engine(early[pod], sample, f"metrics page of {pod}")
    found = measured_between(_total(early), _total(late), name)
    load_seen = dict(found["load"])
    load_seen["arrivals"] = {"poisson": round(load_seen["requests"] / seconds, 4)}
    line = {"id": name, **with_case(case, load_seen), "measured": found["measured"]}
    read_measurement({key: value for key, value in line.items() if key != "id"}, name)  # as a refit will read it
    return line


async def _replicas(client: KubeClient, what: Observed) -> list[dict[str, Any]]:
    """Pods that answer, one of each replica."""
    selector = f"{labels.DEPLOYMENT}={what.name},{labels.LEADER}=true"
    page = json.loads(await client.list_page(PODS, what.namespace, label_selector=selector))
    pods = [pod for pod in page.get("items") or [] if _ready(pod)]
    if not pods:
        raise Refused("no replica is ready", field=f"ServingDeployment {what.namespace}/{what.name}")
    kinds = Counter((_label(pod, labels.ENGINE), _label(pod, labels.ACCELERATOR)) for pod in pods)
    if len(kinds) > 1 or any(labels.ROLE in pod["metadata"]["labels"] for pod in pods):
        shown = ", ".join(f"{count} x {engine} on {accelerator}" for (engine, accelerator), count in kinds.items())
        raise Unsupported(
            "replicas of several kinds or roles cannot be told apart in one measurement",
            field=f"ServingDeployment {what.namespace}/{what.name}",
            value=shown,
            hint="measure a deployment whose replicas are alike",
        )
    return pods


def _label(pod: Mapping[str, Any], key: str) -> str:
    return str(pod["metadata"]["labels"].get(key, ""))


def _ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def _case_of(deployment: ServingDeployment, pods: list[dict[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """The case that the replicas are, in the words of the batch interface; what was given wins."""
    engine, accelerator = _label(pods[0], labels.ENGINE), _label(pods[0], labels.ACCELERATOR)
    candidates = [] if deployment.status.plan is None else deployment.status.plan.candidates
    planned = [choice.choice for candidate in candidates for choice in candidate.choices]
    choices = planned if deployment.spec.auto is not None else deployment.spec.choices
    running = [choice for choice in choices if (choice.engine, choice.accelerator) == (engine, accelerator)]
    shapes = [_shape(choice) for choice in running]
    if "tp" not in given and (not shapes or any(shape != shapes[0] for shape in shapes)):
        raise Unsupported(
            f"which of its choices runs {engine} on {accelerator} cannot be told",
            field="tp",
            hint="say it: --tp, and what else differs from one rank",
        )
    case = {"model": deployment.spec.model.name, "system": accelerator, "backend": engine}
    replicas = {"replicas": len(pods)} if len(pods) > 1 else {}
    return {**case, **(shapes[0] if shapes else {}), **replicas, **given}


def _shape(choice: AcceleratorChoice) -> dict[str, Any]:
    found: dict[str, Any] = {"tp": choice.tensor_parallel}
    for field, degree in (
        ("pp", choice.pipeline_parallel),
        ("attention_dp", choice.data_parallel),
        ("moe_ep", choice.expert_parallel),
    ):
        if degree > 1:
            found[field] = degree
    if choice.accelerator.startswith("cpu-"):
        found["cores"] = max(1, round((choice.cpu_millicores or _MILLICORES_PER_CORE) / _MILLICORES_PER_CORE))
    if choice.quantization is not None:
        found["gemm_quant"] = choice.quantization
    if choice.knobs:
        found["knobs"] = dict(choice.knobs)
    return found


def _total(samples: Samples) -> Sample:
    total: dict[str, float] = {}
    for sample in samples.values():
        for column, value in sample.items():
            total[column] = total.get(column, 0.0) + value
    return total


async def _sample(client: KubeClient, pods: list[dict[str, Any]], engine: Engine) -> Samples:
    """The counters of each replica. Through the API server, so that it works from wherever kubectl does."""
    names, found = page_names(engine), dict[str, Sample]()
    for pod in pods:
        meta = pod["metadata"]
        path = PODS.path(meta["namespace"], f"{meta['name']}:{engine.port}", "proxy") + engine.metrics.path
        try:
            found[meta["name"]] = parse(await client.request("GET", path), names)
        except BadMetricsPage as error:
            raise InvalidSpec(f"cannot be read: {error}", field=f"metrics page of {meta['name']}") from error
    return found


async def _wait(until_s: float, tell: Callable[[float], None]) -> None:
    while (left_s := until_s - time.monotonic()) > 0:
        tell(left_s)
        await asyncio.sleep(min(_TELL_S, left_s))


def _progress(left_s: float, window: int, windows: int) -> str:
    return f"window {window + 1} of {windows}: {left_s:.0f} s to go"


def _refused(error: KubeError, what: Observed) -> Refused:
    hint = None
    if isinstance(error, Forbidden):
        hint = f"it takes the rights of the edit role in namespace {what.namespace} (get pods/proxy)"
    elif isinstance(error, NotFound):
        hint = "see `kubectl get servingdeployments -A`, or a replica left meanwhile"
    return Refused(f"cannot be observed: {error}", field=f"ServingDeployment {what.namespace}/{what.name}", hint=hint)
