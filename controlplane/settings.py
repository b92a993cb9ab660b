"""What an installation sets: environment variables `TRIMTAB_*`, one reader for all processes.

Every value has a default that works from a shell; the chart sets the rest. A value that cannot be read names the
variable, what stood there and what would be allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.model.errors import InvalidSpec
from controlplane.model.routers import InstalledRouter, RouterName
from controlplane.router_settings import routers_of

_PORT_MAX = 65_535
_WORKERS_MAX = 256
_IMAGES_MAX = 64
_PLANNERS_MAX = 16
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """What every process has. `kubeconfig` None: the usual places, or the cluster the process runs in."""

    host: str = "127.0.0.1"
    port: int = 8080
    namespace: str = "default"
    pod_name: str = ""
    kubeconfig: str | None = None
    log_level: str = "info"
    log_format: str = "text"


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """`trimtab operator`. `engine_images`: `ENGINE` or `ENGINE/VENDOR` -> image. `calibration`: file, or folder with a
    `calibration.json`, that may come and go; None: plans are made with the shipped one. `routers`: what may stand in
    front of replicas besides a Service. `database_url` None: tuning jobs are not offered."""

    process: ProcessSettings = field(default_factory=ProcessSettings)
    leader_election: bool = True
    lease_name: str = "trimtab-operator"
    workers: int = 8
    engine_images: Mapping[str, str] = field(default_factory=dict)
    cluster_domain: str = "cluster.local"
    calibration: str | None = None
    routers: Mapping[RouterName, InstalledRouter] = field(default_factory=dict)
    database_url: str | None = field(default=None, repr=False)  # it may hold a password


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """`trimtab api`. `audience` None: tokens for the API server itself are accepted. `planners`: processes that answer
    planning questions, started when first needed. `engine_images`, `calibration`, `routers`: as for the operator, so
    that both plan alike. `database_url` None: tuning jobs are not offered."""

    process: ProcessSettings = field(default_factory=lambda: ProcessSettings(port=8000))
    audience: str | None = "trimtab"
    event_log_capacity: int = 10_000
    planners: int = 2
    engine_images: Mapping[str, str] = field(default_factory=dict)
    calibration: str | None = None
    routers: Mapping[RouterName, InstalledRouter] = field(default_factory=dict)
    database_url: str | None = field(default=None, repr=False)  # it may hold a password


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """`trimtab worker`. `database`: sqlite or postgresql URL. `broker`: Redis URL. `folder`: locks of this host's
    hardware, shared by everything on it that measures. `others_pct`: share of the cores that other processes may take
    during a measurement. `beside_live`: measure on a host that serves. `process`: where health and metrics are served
    (port 0: nowhere), and the cluster. `pods`: trials run as pods in their job's namespace instead of beside this
    process. `engine_images`: as for the operator, for those pods. `namespaces`: where those pods may be; none: anywhere."""

    database: str = field(repr=False)  # it may hold a password, as may the broker's
    broker: str = field(repr=False)
    folder: str = "/run/trimtab"
    others_pct: int = 25
    beside_live: bool = False
    process: ProcessSettings = field(default_factory=lambda: ProcessSettings(port=0))
    pods: bool = False
    engine_images: Mapping[str, str] = field(default_factory=dict)
    namespaces: tuple[str, ...] = ()


def worker_settings(env: Mapping[str, str]) -> WorkerSettings:
    """Settings of `trimtab worker`. Raises InvalidSpec."""
    return WorkerSettings(
        database=_given(env, "TRIMTAB_DATABASE_URL", "postgresql://USER@HOST/DATABASE"),
        broker=_given(env, "TRIMTAB_BROKER_URL", "redis://HOST:6379/0"),
        folder=env.get("TRIMTAB_HARDWARE_DIR") or "/run/trimtab",
        others_pct=_integer(env, "TRIMTAB_OTHERS_PCT", 25, 0, 100),
        beside_live=_truth(env, "TRIMTAB_BESIDE_LIVE", False),
        process=process_settings(env, port=0),
        pods=_truth(env, "TRIMTAB_TRIAL_PODS", False),
        engine_images=_images(env, "TRIMTAB_ENGINE_IMAGES"),
        namespaces=_names(env, "TRIMTAB_TUNING_NAMESPACES"),
    )


def process_settings(env: Mapping[str, str], *, port: int) -> ProcessSettings:
    """The common part. Raises InvalidSpec."""
    return ProcessSettings(
        host=env.get("TRIMTAB_HOST", "127.0.0.1"),
        port=_integer(env, "TRIMTAB_PORT", port, 0, _PORT_MAX),
        namespace=env.get("TRIMTAB_NAMESPACE") or "default",
        pod_name=env.get("TRIMTAB_POD_NAME", ""),
        kubeconfig=env.get("TRIMTAB_KUBECONFIG") or None,
        log_level=_word(env, "TRIMTAB_LOG_LEVEL", "info", LOG_LEVELS),
        log_format=_word(env, "TRIMTAB_LOG_FORMAT", "text", LOG_FORMATS),
    )


def operator_settings(env: Mapping[str, str]) -> OperatorSettings:
    """Settings of `trimtab operator`. Raises InvalidSpec."""
    return OperatorSettings(
        process=process_settings(env, port=8080),
        leader_election=_truth(env, "TRIMTAB_LEADER_ELECTION", True),
        lease_name=env.get("TRIMTAB_LEASE_NAME") or "trimtab-operator",
        workers=_integer(env, "TRIMTAB_WORKERS", 8, 1, _WORKERS_MAX),
        engine_images=_images(env, "TRIMTAB_ENGINE_IMAGES"),
        cluster_domain=env.get("TRIMTAB_CLUSTER_DOMAIN") or "cluster.local",
        calibration=env.get("TRIMTAB_CALIBRATION") or None,
        routers=routers_of(env),
        database_url=env.get("TRIMTAB_DATABASE_URL") or None,
    )


def api_settings(env: Mapping[str, str]) -> ApiSettings:
    """Settings of `trimtab api`. An empty audience means the API server's own. Raises InvalidSpec."""
    return ApiSettings(
        process=process_settings(env, port=8000),
        audience=env.get("TRIMTAB_API_AUDIENCE", "trimtab").strip() or None,
        event_log_capacity=_integer(env, "TRIMTAB_EVENT_LOG_CAPACITY", 10_000, 100, 1_000_000),
        planners=_integer(env, "TRIMTAB_PLANNERS", 2, 1, _PLANNERS_MAX),
        engine_images=_images(env, "TRIMTAB_ENGINE_IMAGES"),
        calibration=env.get("TRIMTAB_CALIBRATION") or None,
        routers=routers_of(env),
        database_url=env.get("TRIMTAB_DATABASE_URL") or None,
    )


def _given(env: Mapping[str, str], name: str, example: str) -> str:
    text = env.get(name, "").strip()
    if not text:
        raise InvalidSpec("is not set", field=name, limit=example)
    return text


def _integer(env: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise InvalidSpec(f"{text!r} is no usable number", field=name, value=text, limit=f"{low} to {high}")
    return int(text)


def _truth(env: Mapping[str, str], name: str, default: bool) -> bool:
    text = env.get(name, "").strip().lower()
    if text and text not in _TRUTH:
        raise InvalidSpec(f"{text!r} is neither true nor false", field=name, value=text, limit="true or false")
    return _TRUTH[text] if text else default


def _word(env: Mapping[str, str], name: str, default: str, allowed: tuple[str, ...]) -> str:
    text = env.get(name, "").strip().lower() or default
    if text not in allowed:
        raise InvalidSpec(f"{text!r} is not offered", field=name, value=text, limit=", ".join(allowed))
    return text


def _names(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    names = [word.strip() for word in env.get(name, "").split(",") if word.strip()]
    for word in names:
        if not _DNS_LABEL.fullmatch(word):
            raise InvalidSpec(
                f"{word!r} is no namespace", field=name, value=word, limit="names with commas between them"
            )
    return tuple(dict.fromkeys(names))


def _images(env: Mapping[str, str], name: str) -> dict[str, str]:
    text = env.get(name, "").strip()
    if not text:
        return {}
    limit = f'a JSON object of at most {_IMAGES_MAX} images, such as {{"openvino": "registry/engine:1"}}'
    try:
        images = json.loads(text)
    except ValueError as error:
        raise InvalidSpec(f"no JSON: {error}", field=name, value=text[:200], limit=limit) from error
    if (
        not isinstance(images, dict)
        or len(images) > _IMAGES_MAX
        or not all(isinstance(image, str) for image in images.values())
    ):
        raise InvalidSpec("not a map of images", field=name, value=text[:200], limit=limit)
    return {engine: image for engine, image in images.items() if image}
