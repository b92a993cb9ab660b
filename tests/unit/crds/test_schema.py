"""The schema is structural, complete and bounded, and says what the types say."""

import copy
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jsonschema
import pytest
import yaml
from pydantic import BaseModel, Field, ValidationError

from controlplane.model.cluster import GPUPoolSpec, GPUPoolStatus
from controlplane.model.serving import ServingDeploymentSpec, ServingDeploymentStatus
from controlplane.model.tuning_resource import TuningJobSpec, TuningJobStatus
from operators.crds.__main__ import TARGET, drift
from operators.crds.definitions import all_definitions, gpu_pool, serving_deployment, tuning_job
from operators.crds.schema import SchemaError, structural
from operators.crds.variants import variant_rules
from tests.unit.crds.bad_objects import BAD, GOOD, GOOD_POOL, GOOD_SERVING, changed
from tests.unit.crds.bad_tuning import BAD_TUNING, GOOD_TUNING, GOOD_TUNINGS

EXAMPLES = TARGET.parents[2] / "examples"
SPECS: dict[str, type[BaseModel]] = {
    "GPUPool": GPUPoolSpec,
    "ServingDeployment": ServingDeploymentSpec,
    "TuningJob": TuningJobSpec,
}
DEFINITIONS = {"GPUPool": gpu_pool(), "ServingDeployment": serving_deployment(), "TuningJob": tuning_job()}
# What the API server accepts inside a structural schema and we use; anything else would be refused or ignored.
KNOWN = {
    "description", "type", "format", "enum", "pattern", "default", "required", "properties", "additionalProperties", "items",
    "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems",
    "maxProperties", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}  # fmt: skip


def root(definition: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from nodes(schema["additionalProperties"], f"{path}.*")


ALL_NODES = [
    pytest.param(node, id=f"{name}{path}")
    for name, schema in ((name, root(definition)) for name, definition in DEFINITIONS.items())
    for path, node in nodes(schema)
]
SPEC_NODES = [item for item in ALL_NODES if ".spec" in str(item.id)]


@pytest.mark.parametrize("node", ALL_NODES)
def test_only_words_of_structural_schemas(node: dict[str, Any]) -> None:
    assert node.keys() <= KNOWN
    assert node.get("default", "") is not None
    assert "type" in node or node["x-kubernetes-preserve-unknown-fields"] is True


@pytest.mark.parametrize("node", ALL_NODES)
def test_every_property_is_described(node: dict[str, Any]) -> None:
    undescribed = [name for name, child in node.get("properties", {}).items() if not child.get("description")]
    assert undescribed in ([], ["metadata"])


@pytest.mark.parametrize("node", SPEC_NODES)
def test_everything_a_user_writes_is_bounded(node: dict[str, Any]) -> None:
    if node.get("type") == "string":
        assert "maxLength" in node or "enum" in node or "pattern" in node
    if node.get("type") == "array":
        assert "maxItems" in node
    if node.get("type") in ("integer", "number"):
        assert "minimum" in node
        assert "maximum" in node
    if "additionalProperties" in node:
        assert "maxProperties" in node


@pytest.mark.parametrize("node", ALL_NODES)
def test_defaults_pass_their_own_schema(node: dict[str, Any]) -> None:
    for child in node.get("properties", {}).values():
        if "default" in child:
            jsonschema.validate(child["default"], plain(child))


def test_status_has_no_defaults() -> None:
    for definition in all_definitions().values():
        for path, node in nodes(root(definition)["properties"]["status"]):
            assert "default" not in node, path


def test_conditions_are_a_map_by_type() -> None:
    for definition in all_definitions().values():
        conditions = root(definition)["properties"]["status"]["properties"]["conditions"]
        assert conditions["x-kubernetes-list-type"] == "map"
        assert conditions["x-kubernetes-list-map-keys"] == ["type"]
        assert conditions["items"]["properties"]["lastTransitionTime"]["format"] == "date-time"


def test_one_stored_version_with_status() -> None:
    for definition in all_definitions().values():
        (version,) = definition["spec"]["versions"]
        assert (version["name"], version["served"], version["storage"]) == ("v1alpha1", True, True)
        assert "status" in version["subresources"]


@pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=DEFINITIONS.keys())
def test_columns_and_scale_read_fields_that_exist(definition: dict[str, Any]) -> None:
    schema = root(definition)
    version = definition["spec"]["versions"][0]
    paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    paths += version["subresources"].get("scale", {}).values()
    for path in paths:
        node = schema
        for step in re.sub(r'\[\?\(@.type=="(Ready|Complete)"\)\]', "", path).removeprefix(".").split("."):
            if node.get("type") == "object" and "properties" not in node:
                assert path == ".metadata.creationTimestamp"
                break
            node = node["properties"][step.removesuffix("[0]")]
            node = node.get("items", node)


@pytest.mark.parametrize(
    ("model", "key"),
    [(m, k) for m, k in ((GPUPoolSpec, "spec"), (GPUPoolStatus, "status"))]
    + [(m, k) for m, k in ((ServingDeploymentSpec, "spec"), (ServingDeploymentStatus, "status"))]
    + [(m, k) for m, k in ((TuningJobSpec, "spec"), (TuningJobStatus, "status"))],
    ids=lambda item: item if isinstance(item, str) else item.__name__,
)
def test_every_field_of_the_type_is_in_the_schema(model: type[BaseModel], key: str) -> None:
    definition = DEFINITIONS[model.__name__.removesuffix("Spec").removesuffix("Status")]
    fields = {info.alias or name for name, info in model.model_fields.items()}
    assert root(definition)["properties"][key]["properties"].keys() == fields


def test_files_are_what_the_types_say() -> None:
    assert drift() == [], "run: python -m operators.crds"


def test_drift_names_a_changed_a_missing_and_a_stale_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("operators.crds.__main__.TARGET", tmp_path)
    (tmp_path / "trimtab.dev_gpupools.yaml").write_text("changed: true\n")
    (tmp_path / "trimtab.dev_old.yaml").write_text("")
    assert drift() == [
        "trimtab.dev_gpupools.yaml",
        "trimtab.dev_old.yaml",
        "trimtab.dev_servingdeployments.yaml",
        "trimtab.dev_tuningjobs.yaml",
    ]


def test_the_fingerprint_follows_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    before = gpu_pool()["metadata"]["annotations"]["trimtab.dev/schema"]
    assert gpu_pool()["metadata"]["annotations"]["trimtab.dev/schema"] == before
    monkeypatch.setattr("operators.crds.definitions.POOL", ())
    assert gpu_pool()["metadata"]["annotations"]["trimtab.dev/schema"] != before


def plain(schema: dict[str, Any]) -> dict[str, Any]:
    """The same in JSON Schema's own words: numeric exclusive bounds, unknown fields refused where the API server would."""
    out = copy.deepcopy(schema)
    for _, node in list(nodes(out)):
        if node.pop("exclusiveMinimum", False):
            node["exclusiveMinimum"] = node.pop("minimum")
        if node.pop("exclusiveMaximum", False):
            node["exclusiveMaximum"] = node.pop("maximum")
        if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
            node["additionalProperties"] = False
    return out


def documents() -> Iterator[Any]:
    for file in sorted(EXAMPLES.glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            yield pytest.param(document, id=f"{file.stem}/{document['metadata']['name']}")
    for name, changes in GOOD:
        yield pytest.param(changed(GOOD_SERVING, changes), id=name)
    yield pytest.param(GOOD_POOL, id="pool")
    for name, changes in GOOD_TUNINGS:
        yield pytest.param(changed(GOOD_TUNING, changes), id=f"tuning: {name}")


@pytest.mark.parametrize("document", list(documents()))
def test_good_objects_pass_the_type_and_the_schema_and_come_back_the_same(document: dict[str, Any]) -> None:
    kind = document["kind"]
    schema = plain(root(DEFINITIONS[kind])["properties"]["spec"])
    jsonschema.validate(document["spec"], schema)
    parsed = SPECS[kind].model_validate(document["spec"])
    written = parsed.model_dump(mode="json", by_alias=True, exclude_none=True)
    jsonschema.validate(written, schema)
    assert SPECS[kind].model_validate(written) == parsed


def _refuses(document: dict[str, Any]) -> bool:
    try:
        SPECS[document["kind"]].model_validate(document["spec"])
    except ValidationError:
        return True
    return False


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_type_and_schema_agree_on_bad_objects(bad: Any) -> None:
    document = bad.manifest
    schema = plain(root(gpu_pool() if bad.pool else serving_deployment())["properties"]["spec"])
    # The scalar knob is the one place where the schema can only approximate: text of 1,025 characters is its own limit.
    # Rate or clients is a rule of CEL; the planner's own type, which has no CEL, knows it too.
    if bad.name not in (
        "long knob",
        "closed loop without clients",
        "open loop without a rate",
        "a rate beside clients",
    ):
        assert _refuses(document) == bool(list(jsonschema.Draft202012Validator(schema).iter_errors(document["spec"])))


@pytest.mark.parametrize("bad", [bad for bad in BAD_TUNING if bad.field], ids=lambda bad: bad.name)
def test_the_type_refuses_what_the_api_server_refuses(bad: Any) -> None:
    """A job that reaches the operator past an older definition is told all the same."""
    if bad.name not in ("a name twice", "prefix of more than the prompt"):  # the desk's check says these
        assert _refuses(bad.manifest)


class _Union(BaseModel):
    either: list[int] | dict[str, int] = Field(description="No schema can say this.")


class _Bare(BaseModel):
    things: list  # type: ignore[type-arg]


class _One(BaseModel):
    kind: Literal["one"] = Field(default="one", description="One.")
    size: int = Field(ge=0, le=9, description="Size.")
    step: int = Field(default=1, ge=1, le=9, description="Step.")
    same: bool = Field(default=False, description="Same.")


class _Two(BaseModel):
    kind: Literal["two"] = Field(default="two", description="Two.")
    size: float = Field(ge=-1, le=1, description="Size.")
    same: bool = Field(default=False, description="Same.")
    given: list[str | int] = Field(description="Given.")


class _Other(BaseModel):
    kind: Literal["other"] = Field(default="other", description="Other.")
    size: str = Field(description="Size.")


class _Variants(BaseModel):
    which: Annotated[_One | _Two, Field(discriminator="kind")] = Field(description="Either.")


class _Clash(BaseModel):
    which: Annotated[_One | _Other, Field(discriminator="kind")] = Field(description="Either.")


class _Map(BaseModel):
    levels: dict[Literal["a", "b"], int] = Field(default_factory=dict, description="By level.")
    maybe: str | None = Field(default=None, max_length=3, description="Optional.")


def test_names_that_yaml_takes_for_truth_values_are_refused() -> None:
    class Counted(BaseModel):
        n: int = Field(default=0, description="How many.")

    with pytest.raises(SchemaError, match="truth value"):
        structural(Counted)


def test_a_type_without_a_structural_schema_is_an_error() -> None:
    with pytest.raises(SchemaError, match="no unions"):
        structural(_Union)
    with pytest.raises(SchemaError, match="what it holds"):
        structural(_Bare)


def test_closed_maps_and_optional_fields() -> None:
    schema = structural(_Map)
    assert schema["properties"]["levels"]["properties"].keys() == {"a", "b"}
    assert schema["properties"]["maybe"] == {"description": "Optional.", "type": "string", "maxLength": 3}
    assert "required" not in schema


def test_variants_become_one_object_with_the_fields_of_all() -> None:
    which = structural(_Variants)["properties"]["which"]
    assert which["description"] == "Either." and which["required"] == ["kind", "size"]
    properties = which["properties"]
    assert properties["kind"]["enum"] == ["one", "two"] and "default" not in properties["kind"]
    assert (properties["size"]["type"], properties["size"]["minimum"], properties["size"]["maximum"]) == (
        "number",
        -1,
        9,
    )
    # The API server would fill a default into a variant that does not take it.
    assert "default" not in properties["step"] and properties["same"]["default"] is False
    with pytest.raises(SchemaError, match="two variants mean different things"):
        structural(_Clash)


def test_rules_keep_variants_apart_by_what_cel_can_see() -> None:
    one, two = variant_rules("spec.which", (_One, _Two))
    assert (one.path, one.field) == ("spec.which", ".kind")
    assert one.rule == "self.kind != 'one' || (has(self.size))"
    assert two.rule == "self.kind != 'two' || (has(self.size) && !has(self.step))"
    assert "given" not in two.rule  # a list of mixed values has no type in CEL
    assert one.message == "one needs size and takes step, same; nothing else"


def test_maps_that_rules_compare_are_free_form() -> None:
    spec = root(tuning_job())["properties"]["spec"]["properties"]
    for node in (spec["baseline"], spec["target"]["properties"]["shape"], spec["space"]["properties"]["fixed"]):
        assert node["type"] == "object" and node["x-kubernetes-preserve-unknown-fields"] is True
        assert "additionalProperties" not in node
