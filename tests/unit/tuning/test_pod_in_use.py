"""The second pod of an attempt, which answers for the configuration in use: named, placed and swept as the first."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.model import labels
from controlplane.model.errors import Refused
from controlplane.model.tuning import LeasedTrial, Objective, SearchSpace
from controlplane.model.tuning_job import DeploymentTarget, TrialPods, TuningSpec
from controlplane.tuning_pods import ClusterPods
from controlplane.tuning_sweep import PodSweep
from operators.serving.render import RenderSettings
from operators.tuning.pod_nodes import pinned
from operators.tuning.pod_reference import answering
from tests.unit.tuning.test_pod_launcher import NS, Lab, lab, leased
from tests.unit.tuning.test_trial_pods import ENGINE, IMAGES, VLLM, deployment, of_deployment, of_engine, pool

__all__ = ["lab"]
PRECISION = {"kind": "choice", "name": "kvCachePrecision", "values": ["u8", "f16"], "changesOutput": True}


def changing(target: Any = ENGINE, baseline: dict[str, Any] | None = None, **pods: Any) -> TuningSpec:
    return TuningSpec(
        target=target, objectives=[Objective(metric="output_tokens_per_s")], baseline=baseline or {},
        space=SearchSpace.model_validate({"parameters": [PRECISION], "fixed": {"cacheSizeGb": 1}}),
        may_change_output=["kvCachePrecision"], pods=TrialPods(**pods),
    )  # fmt: skip


def trial(attempt: int = 1) -> LeasedTrial:
    return leased(attempt, setting={"kvCachePrecision": "u8", "cacheSizeGb": 1})


def pods_of(lab: Lab) -> ClusterPods:
    return ClusterPods(lab.cluster, IMAGES, "trimtab-system")


def made(lab: Lab) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in lab.server.storage.objects("/v1/pods")}


async def test_two_pods_of_one_attempt(lab: Lab) -> None:
    pods, spec = pods_of(lab), changing(baseline={"kvCachePrecision": "f16"})
    first = await lab.do(lambda: pods.start(trial(), spec, in_use=True))
    again = await lab.do(lambda: pods.start(trial(), spec, in_use=True))
    await lab.do(lambda: pods.start(trial(), spec, node="n7"))
    assert first.uid == again.uid
    found = made(lab)
    assert sorted(found) == ["tune-j-0-1", "tune-j-0-1-in-use"]
    reference, own = found["tune-j-0-1-in-use"], found["tune-j-0-1"]
    assert reference["metadata"]["labels"] == own["metadata"]["labels"]
    words = [" ".join(map(str, one["spec"]["containers"][0]["args"])) for one in (reference, own)]
    assert "f16" in words[0] and "u8" in words[1] and words[0].replace("f16", "u8") == words[1]
    (term,) = own["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term["matchFields"] == [{"key": "metadata.name", "operator": "In", "values": ["n7"]}]
    assert "nodeAffinity" not in reference["spec"]["affinity"]


class Store:
    """Who holds what."""

    def __init__(self, *held: tuple[str, int, int]) -> None:
        self.held = set(held)

    def leases(self, asked: list[tuple[str, int]], *, now: object) -> set[tuple[str, int, int]]:
        return self.held


async def test_of_a_worker_that_died_between_the_two_nothing_is_left(lab: Lab) -> None:
    pods, spec = pods_of(lab), changing()
    await lab.do(lambda: pods.start(trial(), spec, in_use=True))
    held = PodSweep(pods, Store(("j", 0, 1)), lambda: None)  # type: ignore[arg-type, return-value]
    assert await lab.do(held.once) == 0  # its worker renews the lease
    nobody = PodSweep(pods, Store(), lambda: None)  # type: ignore[arg-type, return-value]
    assert await lab.do(nobody.once) == 1 and made(lab) == {}


async def test_the_next_attempt_tells_both_pods_of_the_last_to_go(lab: Lab) -> None:
    pods, spec = pods_of(lab), changing()
    await lab.do(lambda: pods.start(trial(), spec, in_use=True))
    await lab.do(lambda: pods.start(trial(), spec))
    await lab.do(lambda: pods.start(trial(2), spec, in_use=True))
    assert sorted(made(lab)) == ["tune-j-0-2-in-use"]


async def test_what_answers_follow_from(lab: Lab) -> None:
    pods = pods_of(lab)

    async def named(spec: TuningSpec, attempt: int = 1) -> str:
        return await lab.do(lambda: pods.answering(trial(attempt), spec))

    one = await named(changing())
    assert one == await named(changing(), attempt=5)
    assert one != await named(changing(baseline={"kvCachePrecision": "f16"}))
    assert one != await named(changing(ENGINE.model_copy(update={"model": "/models/other.gguf"})))
    assert made(lab) == {}
    other = ClusterPods(lab.cluster, RenderSettings(engine_images={"openvino": "x:2"}), "trimtab-system")
    assert one != await lab.do(lambda: other.answering(trial(), changing()))


async def test_a_deployments_key_is_no_part_of_it(lab: Lab) -> None:
    body = deployment().model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"status"})
    lab.server.storage.create("trimtab.dev/v1alpha1/servingdeployments", NS, body)
    lab.server.storage.create("trimtab.dev/v1alpha1/gpupools", "", pool("a").model_dump(mode="json", by_alias=True, exclude_none=True))  # fmt: skip
    spec = changing(DeploymentTarget(name="chat"), baseline={"cacheSizeGb": 1})
    one, other = pods_of(lab), pods_of(lab)
    assert await lab.do(lambda: one.answering(trial(), spec)) == await lab.do(lambda: other.answering(trial(2), spec))
    pod = await lab.do(lambda: one.start(trial(), spec, in_use=True))
    (item,) = made(lab).values()
    env = {each["name"]: each.get("value") for each in item["spec"]["containers"][0]["env"]}
    assert pod.api_key and env["TRIMTAB_API_KEY"] == pod.api_key


async def test_a_configuration_in_use_that_cannot_be_started_is_not_the_settings_fault(lab: Lab) -> None:
    h100 = pool("h", "h100-sxm-80gb").model_dump(mode="json", by_alias=True, exclude_none=True)
    lab.server.storage.create("trimtab.dev/v1alpha1/gpupools", "", h100)
    target = VLLM.model_copy(update={"shape": {"tensorParallel": 16}})
    spec = changing(target).model_copy(update={"space": None})
    for what in (lambda: pods_of(lab).answering(trial(), spec), lambda: pods_of(lab).start(trial(), spec, in_use=True)):
        with pytest.raises(Refused, match=r"the configuration in use: .*16 accelerators") as caught:
            await lab.do(what)  # type: ignore[arg-type]
        assert caught.value.field is None


def test_a_pin_keeps_what_was_wanted_of_the_node() -> None:
    wanted = of_engine().manifest["spec"]["affinity"]
    found = pinned(wanted, "n7")
    terms = found["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    before = wanted["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [term["matchExpressions"] for term in terms] == [term["matchExpressions"] for term in before]
    assert all(term["matchFields"][0]["values"] == ["n7"] for term in terms)
    assert found["podAntiAffinity"] == wanted["podAntiAffinity"] and "matchFields" not in before[0]


def test_names_of_answers_are_short_and_follow_the_engine() -> None:
    assert len(answering(of_engine(), "1")) == 32
    assert answering(of_engine(), "1") != answering(of_engine(), "2")
    assert answering(of_deployment(), "1") != answering(of_deployment(knobs={"cacheSizeGb": 3}), "1")
    elsewhere = of_engine()
    elsewhere.manifest["metadata"]["namespace"] = "other"  # its claims and Secrets are others
    assert answering(of_engine(), "1") != answering(elsewhere, "1")
    assert labels.TRIAL in of_engine().manifest["metadata"]["labels"]
