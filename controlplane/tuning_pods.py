"""Trials as pods on a cluster: made, looked at, ended. Fulfils the floor's `TrialPodLauncher`.

What a trial pod looks like is said in `operators.tuning`; here it is read what it takes, written, and fenced.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from controlplane.catalog import load
from controlplane.cluster_thread import CLUSTER_DOWN, ClusterThread, refused
from controlplane.kube import NODES, PODS, AlreadyExists, KubeClient, KubeError, NotFound, Resource
from controlplane.model import labels
from controlplane.model.cluster import GPUPool
from controlplane.model.errors import InvalidSpec, Refused
from controlplane.model.resource import GROUP, VERSION
from controlplane.model.serving import ServingDeployment
from controlplane.model.tuning import LeasedTrial
from controlplane.model.tuning_job import CommandTarget, DeploymentTarget, EngineTarget, TuningSpec
from controlplane.model.tuning_pods import PodSeen
from controlplane.tuning_jobs import baseline_of
from operators.serving.render import RenderSettings
from operators.tuning.pod_engine import deployed, deployment_pod, engine_of, engine_pod
from operators.tuning.pod_names import Attempt, attempt_of, trial_labels
from operators.tuning.pod_nodes import Place, place_of
from operators.tuning.pod_reference import answering, placed
from operators.tuning.pod_seen import hardware_words, seen_of
from operators.tuning.pod_spec import Rendered, command_pod
from tuner.measure.command import argv_of
from tuner.measure.engine.launch import settings_of
from tuner.search.spaces.training_words import words_of

log = logging.getLogger(__name__)

GPU_POOLS = Resource(GROUP, VERSION, "gpupools", "GPUPool", namespaced=False)
SERVING_DEPLOYMENTS = Resource(GROUP, VERSION, "servingdeployments", "ServingDeployment")
# Lines of a log that are looked at, and their bytes: a command says its figures last, an engine its settings first.
_LAST_LINES, _LOG_BYTES, _LINE_CHARS = 400, 1 << 20, 2000
_FIRST_BYTES = 64 << 10
_LOG_TIMEOUT_S = 10.0


@dataclass(slots=True, eq=False)
class ClusterPod:
    """Fulfils `TrialPod`."""

    cluster: ClusterThread
    namespace: str
    name: str
    uid: str
    container: str
    engine: str
    port: int
    served_name: str
    api_key: str = field(repr=False)
    _hardware: str = ""
    _node: str = ""

    def look(self) -> PodSeen:
        try:
            body = self.cluster.call(lambda client: client.get(PODS, self.name, self.namespace))
        except NotFound:
            return PodSeen("gone")
        except KubeError as error:
            raise refused(error, f"pod {self.namespace}/{self.name}") from error
        uid, seen = seen_of(body, self.container)
        self._node = seen.node or self._node
        return seen if uid == self.uid else PodSeen("gone")

    def log(self, *, last: bool = True) -> list[str]:
        path = PODS.path(self.namespace, self.name, "log")
        amount: dict[str, int] = (
            {"tailLines": _LAST_LINES, "limitBytes": _LOG_BYTES} if last else {"limitBytes": _FIRST_BYTES}
        )
        query: dict[str, str | int | bool | None] = {"container": self.container, **amount}
        try:
            text = self.cluster.call(lambda client: client.request("GET", path, query=query, timeout_s=_LOG_TIMEOUT_S))
        except KubeError:  # not begun, gone, or its node is away: there is none to be had
            return []
        return [line[:_LINE_CHARS] for line in text.decode("utf-8", "replace").splitlines()]

    def hardware(self) -> str:
        if not self._hardware:
            try:
                body = self.cluster.call(lambda client: client.get(NODES, self._node))
            except KubeError as error:
                raise refused(error, f"node {self._node} of pod {self.name}") from error
            self._hardware = hardware_words(body)
        return self._hardware

    def end(self) -> None:
        _delete(self.cluster, self.namespace, self.name, self.uid)


@dataclass(frozen=True, slots=True)
class ClusterPods:
    """`installation` names those pods that are ours to sweep: the namespace of this release. `namespaces`: where jobs may
    run, everywhere when empty."""

    cluster: ClusterThread
    settings: RenderSettings
    installation: str
    namespaces: tuple[str, ...] = ()
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def start(
        self, leased: LeasedTrial, spec: TuningSpec, *, in_use: bool = False, node: str | None = None
    ) -> ClusterPod:
        of = Attempt(leased.job, leased.number, leased.attempt)
        rendered, engine = (
            self._in_use(of, leased, spec, self._key(of)) if in_use else self._rendered(of, leased, spec, self._key(of))
        )
        rendered = placed(rendered, of, in_use=in_use, node=node)
        metadata = rendered.manifest["metadata"]
        metadata["labels"][labels.INSTALLATION] = self.installation
        namespace, name = leased.tenant, metadata["name"]
        try:
            self._fence(of, namespace)
            uid = self.cluster.call(lambda client: _made(client, namespace, name, rendered.manifest))
        except KubeError as error:
            # It may have been made all the same, by a request whose answer was lost: that one is told to go.
            _delete(self.cluster, namespace, name, None)
            raise refused(error, f"pod {namespace}/{name}") from error
        return ClusterPod(
            self.cluster, namespace, name, uid, rendered.container, engine, rendered.port, rendered.served_name,
            rendered.api_key,
        )  # fmt: skip

    def answering(self, leased: LeasedTrial, spec: TuningSpec) -> str:
        of = Attempt(leased.job, leased.number, leased.attempt)
        rendered, engine = self._in_use(of, leased, spec, "")
        return answering(rendered, load().engine(engine).version)

    def _in_use(self, of: Attempt, leased: LeasedTrial, spec: TuningSpec, key: str) -> tuple[Rendered, str]:
        """What the trial's setting is not to blame for is said so."""
        try:
            return self._rendered(of, leased.model_copy(update={"setting": baseline_of(spec) or {}}), spec, key)
        except InvalidSpec as error:
            raise Refused(f"the configuration in use: {error}", code=error.reason) from error

    def _rendered(self, of: Attempt, leased: LeasedTrial, spec: TuningSpec, key: str) -> tuple[Rendered, str]:
        """`key`: asked of clients where the target asks one."""
        catalog, target = load(), spec.target
        pools = self._pools()
        if isinstance(target, CommandTarget):
            if target.image is None:
                raise Refused("no image is named for its pods", field="target.image")
            place = place_of(pools, spec.pods.pools, lambda _: None, catalog) if spec.pods.pools else None
            argv = _argv(target, leased)
            return command_pod(of, leased.tenant, spec, place or Place(), target.image, argv), ""
        if isinstance(target, EngineTarget):
            engine = catalog.engine(target.engine, field="target.engine")
            knobs, shape = settings_of(engine, leased.setting, target.shape)
            place = place_of(pools, spec.pods.pools, engine.why_not_on, catalog)
            if place is None and "cpu" not in engine.accelerator_kinds:
                raise Refused(f"no pool has accelerators for {engine.id}", field="pods.pools", hint="make a GPUPool")
            found = engine_pod(of, leased.tenant, target, spec, place or Place(), knobs, shape, catalog, self.settings)
            return found, engine.id
        deployment = self._deployment(target, leased.tenant)
        choice = deployed(deployment)
        engine, accelerator = engine_of(choice, catalog)
        knobs, _ = settings_of(engine, leased.setting, {})
        place = place_of(
            pools, spec.pods.pools or choice.pools,
            lambda one: None if one.id == accelerator.id else f"the deployment runs on {accelerator.id}, this is {one.id}",
            catalog,
        )  # fmt: skip
        if place is None:
            raise Refused(f"no pool has {accelerator.id}", field="pods.pools")
        return deployment_pod(of, spec, place, deployment, knobs, catalog, self.settings, key), engine.id

    def _key(self, of: Attempt) -> str:
        """Asked of the clients of this attempt's engine. The same at every try: a pod whose creation was not answered may
        be there already, with the key of the first."""
        return hmac.new(self._secret, f"{of.job}/{of.number}/{of.attempt}".encode(), hashlib.sha256).hexdigest()

    def _pools(self) -> list[GPUPool]:
        try:
            body = self.cluster.call(lambda client: client.list_page(GPU_POOLS))
        except KubeError as error:
            raise refused(error, "GPUPools") from error
        pools = []
        for item in json.loads(body)["items"]:
            try:
                pools.append(GPUPool.model_validate(item))
            except ValidationError as error:  # of a newer definition: one pool keeps no trial of others
                name = item.get("metadata", {}).get("name")
                log.warning("GPUPool %s cannot be read and takes no trials: %s", name, error.errors()[0]["msg"])
        return pools

    def _deployment(self, target: DeploymentTarget, tenant: str) -> ServingDeployment:
        if target.namespace not in (None, tenant):
            raise Refused("a job tunes deployments of its own namespace", field="target.namespace", limit=tenant)
        try:
            body = self.cluster.call(lambda client: client.get(SERVING_DEPLOYMENTS, target.name, tenant))
        except KubeError as error:
            raise refused(error, f"ServingDeployment {tenant}/{target.name}", field="target.name") from error
        return ServingDeployment.model_validate_json(body)

    def _fence(self, of: Attempt, namespace: str) -> None:
        """Tell the pods of the trial's other attempts to go. Nobody waits for them: while one is there, anti-affinity
        keeps ours off its node."""
        mine = trial_labels(of)
        selector = ",".join(f"{key}={mine[key]}" for key in (labels.TUNING_JOB, labels.TRIAL))
        body = self.cluster.call(lambda client: client.list_page(PODS, namespace, label_selector=selector))
        for item in json.loads(body)["items"]:
            metadata = item["metadata"]
            other = attempt_of(metadata.get("labels") or {})
            if other is not None and other.attempt < of.attempt and "deletionTimestamp" not in metadata:
                _delete(self.cluster, namespace, metadata["name"], metadata["uid"])


def _argv(target: CommandTarget, leased: LeasedTrial) -> list[str]:
    try:
        return argv_of(target.command, words_of(target, leased.setting), leased.seed)
    except InvalidSpec as error:  # a place whose parameter this setting has not got: the setting cannot be run
        raise InvalidSpec(
            error.message, field="setting", value=error.value, limit=error.limit, hint=error.hint
        ) from error


async def _made(client: KubeClient, namespace: str, name: str, manifest: dict[str, Any]) -> str:
    """The uid of this attempt's pod. One that is there already is this attempt's: nobody else has its number. Raises
    Refused while that one goes, told so by a try that was not answered: nothing can be measured in it."""
    try:
        body = await client.create(PODS, manifest, namespace)
    except AlreadyExists:
        body = await client.get(PODS, name, namespace)
    metadata = json.loads(body)["metadata"]
    if "deletionTimestamp" in metadata:
        raise Refused(f"pod {namespace}/{name} of an earlier try is on its way out", code=CLUSTER_DOWN)
    return str(metadata["uid"])


def _delete(cluster: ClusterThread, namespace: str, name: str, uid: str | None) -> None:
    """Never raises: the sweep comes by."""
    try:
        cluster.call(lambda client: client.delete(PODS, name, namespace, uid=uid))
    except NotFound:
        return
    except (KubeError, TimeoutError) as error:
        log.warning("pod %s/%s could not be told to go: %s; the sweep tells it again", namespace, name, error)
