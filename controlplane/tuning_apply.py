"""The best setting of a tuning job written into a ServingDeployment. Pure: objects in, patch out.

Only what was measured is written: the engine's settings of one accelerator choice (or of all with that engine), and where
asked for the canary that tries them. What stood there before is kept in an annotation: `controlplane.tuning_undo` takes it back.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue, ValidationError

from controlplane.catalog import Engine, load
from controlplane.catalog.knobs import check_knobs
from controlplane.catalog.loader import unknown
from controlplane.model.canary import Canary
from controlplane.model.choice import AcceleratorChoice
from controlplane.model.errors import InvalidSpec, Refused, Unsupported
from controlplane.model.serving import ServingDeploymentSpec
from controlplane.model.tuning import Setting
from controlplane.model.tuning_apply import TUNED_BEFORE, TUNED_BY, FieldChange
from controlplane.model.tuning_decision import Judged, TuningDecision
from controlplane.model.tuning_job import CommandTarget, DeploymentTarget, EngineTarget
from controlplane.model.tuning_records import TuningJobRecord
from controlplane.tuning_canary import Latencies, apply_warnings
from controlplane.tuning_notes import CANARY, note

CHOICES = "spec.explicit.choices"
Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Patch:
    """`body` is a JSON merge patch on the version that was read (RFC 7396); empty where nothing changes."""

    changes: tuple[FieldChange, ...]
    warnings: tuple[str, ...]
    body: dict[str, Any]


def apply_best(
    record: TuningJobRecord,
    decision: TuningDecision,
    document: Document,
    *,
    canary: Canary | None = None,
    force: bool = False,
    every_choice: bool = False,
    measured: Latencies | None = None,
) -> Patch:
    """What makes `document`, a ServingDeployment as read, run the job's best setting. `force`: although the decision
    does not say `better`, or the job tuned another deployment. `measured`: latencies, for what a canary will make of
    them. Raises Refused, Unsupported, InvalidSpec, UnknownName."""
    best = _winner(record, decision, force)
    spec = _spec(document)
    engine = _engine(record, document, spec, force)
    matching = [i for i, choice in enumerate(spec.choices) if choice.engine == engine.id]
    if not matching:
        raise Refused(
            f"no accelerator choice of the deployment runs {engine.id}",
            field=CHOICES,
            value=", ".join(sorted({choice.engine for choice in spec.choices})),
            limit=engine.id,
            hint="tune the engine that the deployment runs",
            code="EngineDiffers",
        )
    wanted = _wanted(record, best.setting, engine)
    raw: list[dict[str, Any]] = copy.deepcopy(document["spec"]["explicit"]["choices"])
    changes: list[FieldChange] = []
    for index in matching if every_choice else matching[:1]:
        changes += _put(engine, spec.choices[index], raw[index], wanted, f"{CHOICES}[{index}]")
    body: dict[str, Any] = {"explicit": {"choices": raw}} if changes else {}
    if canary is not None:
        held = canary_in(document)
        after = {**(held or {}), **canary.model_dump(mode="json", by_alias=True, exclude_unset=True)}
        after.setdefault("replicas", canary.replicas)
        if held is None or Canary.model_validate(after) != Canary.model_validate(held):
            changes.append(FieldChange(field=CANARY, before=held, after=after))
            body["rollout"] = {"canary": after}
    check_merged(document, body)
    warnings = _warnings(record, decision, engine, spec.choices[matching[0]], wanted, len(matching), every_choice)
    tried = canary_in({"spec": merged(document["spec"], body)})
    if changes and tried is not None:
        warnings += apply_warnings(record, measured or {}, Canary.model_validate(tried))
    notes: dict[str, str | None] = {TUNED_BY: record.id, TUNED_BEFORE: note(document, record.id, changes)}
    return Patch(tuple(changes), tuple(warnings), patch_body(document, body, notes) if changes else {})


def merged(document: Any, patch: Any) -> Any:
    """RFC 7396: the document with a merge patch applied."""
    if not isinstance(patch, Mapping):
        return patch
    out = dict(document) if isinstance(document, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            out.pop(name, None)
        else:
            out[name] = merged(out.get(name), value)
    return out


def _winner(record: TuningJobRecord, decision: TuningDecision, force: bool) -> Judged:
    if isinstance(record.spec.target, CommandTarget):
        raise Unsupported(
            "the parameters of a command are no settings of a deployment",
            field="target.kind",
            value="command",
            limit="engine, deployment",
        )
    if record.decision is None:
        raise Refused(
            f"the job is {record.state.value}: nothing is confirmed yet",
            field="state",
            value=record.state.value,
            limit="done",
            hint="wait for its end",
            code="NotDecided",
        )
    if decision.best is None:
        raise Refused(decision.message, field="verdict", value=decision.verdict, code="NoWinner")
    if decision.verdict != "better" and not force:
        raise Refused(
            f"not shown to be better: {decision.message}",
            field="verdict",
            value=decision.verdict,
            limit="better",
            hint="measure more rounds (confirmRuns), or apply it with force",
            code="NotBetter",
        )
    return decision.best


def _spec(document: Document) -> ServingDeploymentSpec:
    try:
        spec = ServingDeploymentSpec.model_validate(document.get("spec"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(["spec", *(str(part) for part in first["loc"])])
        raise InvalidSpec(f"the deployment cannot be read: {first['msg']}", field=place) from None
    for name, given in (("auto", spec.auto), ("roles", spec.roles)):
        if given is not None:
            raise Unsupported(
                "only written accelerator choices take a tuned setting",
                field=f"spec.{name}",
                limit="spec.explicit",
                hint="the planner chooses the settings of an auto deployment: write its plan out with `trimtab plan "
                "serving --export manifest`"
                if name == "auto"
                else "write the knobs into the role's choices by hand",
            )
    return spec


def _engine(record: TuningJobRecord, document: Document, spec: ServingDeploymentSpec, force: bool) -> Engine:
    target = record.spec.target
    if isinstance(target, EngineTarget):
        return load().engine(target.engine, field="target.engine")
    assert isinstance(target, DeploymentTarget)
    found, there = document["metadata"].get("name"), document["metadata"].get("namespace")
    elsewhere = None not in (there, target.namespace) and there != target.namespace
    if (found != target.name or elsewhere) and not force:
        raise Refused(
            "the job tuned another deployment",
            field="deployment",
            value=f"{there}/{found}" if elsewhere else found,
            limit=f"{target.namespace}/{target.name}" if elsewhere else target.name,
            hint="tune this one, or apply it with force",
            code="DeploymentDiffers",
        )
    return load().engine(spec.choices[0].engine, field=f"{CHOICES}[0].engine")


def _wanted(record: TuningJobRecord, setting: Setting, engine: Engine) -> dict[str, JsonValue]:
    """Every field that was measured, in the engine's types."""
    fixed = record.spec.target.shape if isinstance(record.spec.target, EngineTarget) else {}
    out: dict[str, JsonValue] = {}
    for name, value in sorted({**fixed, **setting}.items()):
        knob = engine.knob(name)
        if knob is None:
            known = {one.field for one in (*engine.shape, *engine.knobs)}
            raise unknown(f"{engine.id} knob", name, known, field=f"setting.{name}")
        whole = knob.type == "int" and isinstance(value, float) and value.is_integer()
        out[name] = int(value) if whole else value
    return out


def _put(
    engine: Engine, choice: AcceleratorChoice, raw: dict[str, Any], wanted: Mapping[str, JsonValue], path: str
) -> list[FieldChange]:
    """Writes into the choice as read; what changed. Raises what the engine would refuse."""
    shape_names = {knob.field for knob in engine.shape}
    told = choice.model_dump(mode="json", by_alias=True)
    changes: list[FieldChange] = []
    for name, value in wanted.items():
        in_shape = name in shape_names
        if in_shape and name not in told:
            raise Unsupported("a deployment has no such field", field=f"setting.{name}", value=value)
        held = told[name] if in_shape else choice.knobs.get(name)
        if held == value:
            continue
        place = raw if in_shape else raw.setdefault("knobs", {})
        field = f"{path}.{name}" if in_shape else f"{path}.knobs.{name}"
        changes.append(FieldChange(field=field, before=place.get(name), after=value))
        place[name] = value
    shape = {name: raw.get(name, told[name]) for name in shape_names if name in told}
    for error in check_knobs(engine, raw.get("knobs") or {}, shape, field=f"{path}.knobs"):
        raise error
    return changes


def _warnings(
    record: TuningJobRecord,
    decision: TuningDecision,
    engine: Engine,
    choice: AcceleratorChoice,
    wanted: Mapping[str, JsonValue],
    matching: int,
    every_choice: bool,
) -> list[str]:
    out: list[str] = []
    if decision.verdict != "better":
        out.append(f"forced: {decision.message}")
    target = record.spec.target
    if isinstance(target, EngineTarget):
        out.append(f"measured with model {target.model} on the job's own hardware, not on this deployment's")
        kept = sorted(set(choice.knobs) - set(wanted))
        if kept:
            out.append(f"{', '.join(kept)} stay as the deployment has them; trials ran with the engine's own values")
    longest, now = (engine.longest_prompt({**choice.knobs, **more}) for more in (wanted, {}))
    if engine.prompt_limit is not None and longest is not None and (now is None or longest < now):
        out.append(
            f"prompts above {longest} tokens will be refused: {engine.prompt_limit.message} "
            f"({'up to the context' if now is None else f'{now} tokens'} are taken now)"
        )
    lengths = [one.tokens for one in (record.spec.load.input, record.spec.load.output) if one is not None]
    if len(lengths) == 2:
        out.append(
            f"measured with {lengths[0]} prompt and {lengths[1]} output tokens: "
            "longer requests were not seen, and a small token budget may refuse them"
        )
    baseline = decision.baseline.setting if decision.baseline is not None else None
    if baseline is not None:
        other = sorted(name for name, value in choice.knobs.items() if name in wanted and baseline.get(name) != value)
        if other:
            out.append(f"the gain was measured over other values of {', '.join(other)} than the deployment has now")
    if matching > 1:
        whose = f"all {matching} choices with this engine" if every_choice else f"the first of {matching} choices with this engine"  # fmt: skip
        out.append(f"written into {whose}; it was measured on one")
    return out


def canary_in(document: Document) -> dict[str, Any] | None:
    """As written."""
    found: dict[str, Any] | None = (document["spec"].get("rollout") or {}).get("canary")
    return found


def check_merged(document: Document, body: Mapping[str, Any]) -> None:
    """The deployment as it would be. Raises InvalidSpec."""
    _spec({**document, "spec": merged(document["spec"], body)})


def patch_body(document: Document, spec: Mapping[str, Any], notes: Mapping[str, str | None]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"annotations": dict(notes)}
    version = document["metadata"].get("resourceVersion")
    if version is not None:
        metadata["resourceVersion"] = version  # somebody who was faster is not overwritten: the cluster says Conflict
    return {"metadata": metadata, "spec": dict(spec)}
