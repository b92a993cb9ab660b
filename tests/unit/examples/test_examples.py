"""Every example is one a user can apply: valid, known to the catalogue, rendered, true to the image it needs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.catalog import load
from controlplane.catalog.detect import accelerator_of_product
from controlplane.model.cluster import GPUPool
from controlplane.model.plans import PlannablePool
from controlplane.model.routers import InstalledRouter
from controlplane.model.serving import ServingDeployment
from controlplane.model.tuning_resource import TuningJobSpec
from controlplane.tuning_desk import checked
from operators.pools.plannable import PoolRoom
from operators.serving.plan_request import ask
from operators.serving.render import RenderSettings, pod, replica_template
from operators.serving.validate import validate

ROOT = Path(__file__).resolve().parents[3]
CATALOG = load()
SETTINGS = RenderSettings(
    engine_images={"openvino": "registry.example/engine-openvino:1"},
    routers={"vllm-router": InstalledRouter(image="registry.example/vllm-router:1")},
)
DOCUMENTS: list[tuple[str, dict[str, Any]]] = [
    (f"{path.name}/{document['metadata']['name']}", document)
    for path in sorted((ROOT / "examples").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]


def of_kind(kind: str) -> pytest.MarkDecorator:
    chosen = [(name, document) for name, document in DOCUMENTS if document["kind"] == kind]
    return pytest.mark.parametrize("document", [d for _, d in chosen], ids=[name for name, _ in chosen])


def test_every_kind_is_shown() -> None:
    assert {document["kind"] for _, document in DOCUMENTS} == {"GPUPool", "ServingDeployment", "TuningJob"}


@of_kind("TuningJob")
def test_tuning_jobs_are_ones_that_the_operator_makes(document: dict[str, Any]) -> None:
    spec = TuningJobSpec.model_validate(document["spec"])
    made = checked(spec.job(), document["metadata"]["namespace"])
    assert made.space is not None and {one.name for one in made.space.parameters} == {
        "maxNumSeqs",
        "maxNumBatchedTokens",
    }


def test_the_tuned_model_is_the_sample_s() -> None:
    sample = yaml.safe_load((ROOT / "examples" / "serving-openvino.yaml").read_text())
    tuned = yaml.safe_load((ROOT / "examples" / "tuning-openvino.yaml").read_text())
    assert f"image:{tuned['spec']['target']['model']}" == sample["spec"]["model"]["source"]


@of_kind("ServingDeployment")
def test_deployments_are_valid_and_every_choice_renders(document: dict[str, Any]) -> None:
    document = {**document, "metadata": {**document["metadata"], "uid": "5e0c1b1a-0000-4000-8000-000000000001"}}
    deployment = ServingDeployment.model_validate(document)
    assert [str(error) for error in validate(deployment, CATALOG, SETTINGS)] == []
    for index, choice in enumerate(deployment.spec.choices):
        template = replica_template(deployment, index, CATALOG, SETTINGS)
        assert template.accelerator == choice.accelerator
        assert pod(template, deployment, 0, 0, "node", "pool", [])["kind"] == "Pod"


@of_kind("ServingDeployment")
def test_planned_deployments_are_questions(document: dict[str, Any]) -> None:
    document = {**document, "metadata": {**document["metadata"], "uid": "5e0c1b1a-0000-4000-8000-000000000003"}}
    deployment = ServingDeployment.model_validate(document)
    assert (deployment.spec.auto is None) == bool(deployment.spec.choices)
    if deployment.spec.auto is not None:
        rooms = [
            PoolRoom(
                PlannablePool(name=f"pool-{number}", accelerator=accelerator, free=0, per_node=8), 8 * scale, scale
            )
            for number, (accelerator, scale) in enumerate([("h100-sxm-80gb", 1), ("cpu-x86", 1000)])
        ]
        request = ask(deployment, rooms, (), CATALOG, SETTINGS).request
        assert set(request.allowed.engines) == set(deployment.spec.auto.allowed.engines)


@of_kind("GPUPool")
def test_pools_name_what_the_catalogue_knows(document: dict[str, Any]) -> None:
    spec = GPUPool.model_validate(document).spec
    product = spec.node_selector.match_labels.get("nvidia.com/gpu.product")
    if product is not None:
        assert accelerator_of_product(CATALOG, product) is not None
    if spec.nic.nic_class is not None:
        assert spec.nic.nic_class in CATALOG.nics


def test_the_sample_s_model_is_in_the_embedded_engine_s_image() -> None:
    sample = yaml.safe_load((ROOT / "examples" / "serving-openvino.yaml").read_text())
    path = sample["spec"]["model"]["source"].removeprefix("image:")
    assert f"make-model {path}" in (ROOT / "images" / "engine-openvino" / "Containerfile").read_text()


def test_the_ladder_and_the_gang_are_shown() -> None:
    shapes = {}
    for _, document in DOCUMENTS:
        if document["kind"] == "ServingDeployment":
            document["metadata"].setdefault("uid", "5e0c1b1a-0000-4000-8000-000000000002")
            deployment = ServingDeployment.model_validate(document)
            count = len(deployment.spec.choices)
            shapes[deployment.metadata.name] = [
                replica_template(deployment, index, CATALOG, SETTINGS).pods for index in range(count)
            ]
    assert any(len(pods) > 1 and set(pods) == {1} for pods in shapes.values())
    assert any(max(pods, default=0) > 1 for pods in shapes.values())
