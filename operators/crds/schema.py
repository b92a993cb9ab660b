"""From a pydantic model to a structural OpenAPI v3 schema as the API server demands it.

What changes on the way: references are inlined, `null` alternatives become an absent field, titles go, free-form
values are marked as such, fields that may only be null go, objects without stated properties become maps, variants told
apart by a field become one object with the fields of all (`operators.crds.variants` makes the rules that keep them
apart). Anything else that the API server would refuse (unions, tuples) raises SchemaError: the type must be changed, not
the schema bent.
"""

from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_KEPT = (
    "description",
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
)
# YAML 1.1, which kubectl and Helm read, takes these for true or false, also as names of fields.
_YAML_BOOLEANS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false"})
_SCALAR: Schema = {"maxLength": 1024, "maxItems": 0, "maxProperties": 0}
# Pydantic says these for exclusive bounds; OpenAPI v3.0, which the API server speaks, has a flag beside the bound.
_EXCLUSIVE = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}


class SchemaError(TypeError):
    """A type that has no structural schema."""


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of a model, serialisation aliases as property names. Raises SchemaError."""
    document = model.model_json_schema(by_alias=True, mode="validation")
    return _convert(document, document.get("$defs", {}), model.__name__)


def _convert(node: Schema, defs: dict[str, Schema], path: str) -> Schema:
    if "$ref" in node:
        target = defs[node["$ref"].rsplit("/", 1)[1]]
        # A field's own description says what the type means here; the type's says what it is in general.
        return _convert({**target, **{key: value for key, value in node.items() if key != "$ref"}}, defs, path)
    if "discriminator" in node:
        return _merged(node, defs, path)
    if "anyOf" in node:
        return _convert(_without_null(node, path), defs, path)
    if "const" in node:
        node = {**node, "enum": [node["const"]], "type": "string"}
    out: Schema = {key: node[key] for key in _KEPT if key in node}
    if "description" in out:
        out["description"] = " ".join(out["description"].split())
    for theirs, ours in _EXCLUSIVE.items():
        if theirs in node:
            out[ours] = node[theirs]
            out[theirs] = True
    kind = node.get("type")
    if kind == "object":
        _convert_object(node, out, defs, path)
    elif kind == "array":
        if not node.get("items"):
            raise SchemaError(f"{path}: a list must say what it holds")
        out["items"] = _convert(node["items"], defs, f"{path}[]")
        out["x-kubernetes-list-type"] = "atomic"
    elif kind is None:
        out["x-kubernetes-preserve-unknown-fields"] = True
    elif kind == "integer" and "format" not in out:
        out["format"] = "int64"
    default = node.get("default")
    if default is not None and default not in ({}, []):
        out["default"] = default
    return out


def _convert_object(node: Schema, out: Schema, defs: dict[str, Schema], path: str) -> None:
    if "properties" in node:
        out.pop("default", None)
        required = node.get("required", [])
        out["properties"] = properties = {}
        for name, child in node["properties"].items():
            if name.lower() in _YAML_BOOLEANS:
                raise SchemaError(f"{path}.{name}: kubectl and Helm read this name as a truth value; call it otherwise")
            if child.get("type") == "null":
                continue  # a field that a narrower type has given up
            properties[name] = converted = _convert(child, defs, f"{path}.{name}")
            # The API server fills nested defaults only where the parent exists, and judges a default by the rules
            # before filling it: an absent parent gets all of them spelt out.
            nested = converted.get("properties", {})
            whole = child.get("default")
            if isinstance(whole, dict) and whole:
                converted["default"] = _stated(whole)
                continue
            defaults = {key: item["default"] for key, item in nested.items() if "default" in item}
            if name not in required and "anyOf" not in child and "required" not in converted and defaults:
                converted["default"] = defaults
        return
    names = node.get("propertyNames", {})
    values = node.get("additionalProperties", True)
    child = {} if values is True else _convert(values, defs, f"{path}.*")
    if "enum" in names:
        # A map over a closed set of keys is an object with optional properties.
        out["properties"] = {name: {**child, "description": f"For {name}."} for name in names["enum"]}
        out.pop("maxProperties", None)
    elif not child or child == {"x-kubernetes-preserve-unknown-fields": True}:
        out["x-kubernetes-preserve-unknown-fields"] = True
    else:
        if child.get("type") == "string":
            child.setdefault("maxLength", 1024)
        out["additionalProperties"] = child
        out.setdefault("maxProperties", 64)


def comparable(schema: Schema) -> Schema:
    """The same with maps of mixed values as free-form objects: CEL, which rules compare old and new with, does not see a
    map whose values have no type. What the values may be is then judged by the type alone."""
    out = {key: value for key, value in schema.items() if key != "additionalProperties"}
    if "additionalProperties" in schema:
        values = schema["additionalProperties"]
        out |= {"additionalProperties": values} if "type" in values else {"x-kubernetes-preserve-unknown-fields": True}
    if "properties" in schema:
        out["properties"] = {name: comparable(child) for name, child in schema["properties"].items()}
    if "items" in schema:
        out["items"] = comparable(schema["items"])
    return out


def seen_by_cel(schema: Schema) -> bool:
    """Whether a rule may name a field of this schema: it and what it holds must have types."""
    inner = [schema[key] for key in ("items", "additionalProperties") if key in schema]
    return "type" in schema and all(map(seen_by_cel, inner))


def _merged(node: Schema, defs: dict[str, Schema], path: str) -> Schema:
    """One object for all variants. A default stays only where every variant has it: the API server would fill in what
    another variant does not take."""
    tag = node["discriminator"]["propertyName"]
    variants = [_convert(option, defs, path) for option in node["oneOf"]]
    properties: dict[str, Schema] = {}
    for name in dict.fromkeys(name for variant in variants for name in variant["properties"]):
        found = [variant["properties"][name] for variant in variants if name in variant["properties"]]
        one = {key: value for key, value in found[0].items() if key != "default"}
        for other in found[1:]:
            one = _either(one, other, name == tag, f"{path}.{name}")
        if len(found) == len(variants) and all(item.get("default") == found[0].get("default") for item in found):
            one |= {"default": found[0]["default"]} if "default" in found[0] else {}
        properties[name] = one
    properties[tag]["description"] = "Which variant: " + ", ".join(properties[tag]["enum"]) + "."
    needed = [name for name in properties if all(name in {tag, *item.get("required", ())} for item in variants)]
    said = {"description": node["description"]} if "description" in node else {}
    return said | {"type": "object", "properties": properties, "required": needed}


def _either(one: Schema, other: Schema, tag: bool, path: str) -> Schema:
    """A property that two variants have: the same, or whole numbers in one and any number in the other."""
    if tag:
        return {**one, "enum": [*one["enum"], *other["enum"]]}
    if {one.get("type"), other.get("type")} == {"integer", "number"}:
        wide = one if one["type"] == "number" else other
        bounds = {"minimum": min(one["minimum"], other["minimum"]), "maximum": max(one["maximum"], other["maximum"])}
        return {key: value for key, value in wide.items() if key != "default"} | bounds
    if one != {key: value for key, value in other.items() if key != "default"}:
        raise SchemaError(f"{path}: two variants mean different things by it")
    return one


def _stated(default: Any) -> Any:
    if isinstance(default, dict):
        return {key: _stated(value) for key, value in default.items() if value is not None}
    return default


def _without_null(node: Schema, path: str) -> Schema:
    options = [option for option in node["anyOf"] if option.get("type") != "null"]
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    if len(options) == 1:
        return {**options[0], **rest}
    kinds = {option.get("type") for option in options}
    if kinds <= {"boolean", "integer", "number", "string"}:
        # The API server has no unions of scalars and CEL cannot look into a free-form value, but limits of each kind
        # hold for values of that kind: a scalar is what is neither a filled list nor a filled object.
        return {key: value for key, value in rest.items() if key == "description"} | _SCALAR
    if kinds <= {"string", None}:
        return {**options[0], **rest}
    raise SchemaError(f"{path}: the API server knows no unions ({sorted(map(str, kinds))})")
