"""What a TuningJob's schema cannot say and CEL can. Whatever needs the catalogue is told in the Complete condition."""

from __future__ import annotations

from dataclasses import replace

from controlplane.model.tuning import ChoiceParameter, FloatParameter, IntParameter
from controlplane.model.tuning_job import CommandTarget, EngineTarget
from controlplane.model.tuning_resource import NamedDeployment, TuningJobSpec
from operators.crds.rules import SERVING, Rule
from operators.crds.variants import variant_rules

_PARAMETER = "spec.space.parameters[]"
# What may change in a job that exists.
_CHANGEABLE = ("suspend", "budget")


def _fixed(name: str) -> Rule:
    """A field of the spec that stays as it was created."""
    same = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
    message = (
        "cannot be changed once the job exists, or its trials would answer different questions: only suspend and a larger "
        "budget.trials may; make another TuningJob"
    )
    return Rule("spec", same, message, f".{name}")


TUNING: tuple[Rule, ...] = (
    Rule(
        "",
        "size(self.metadata.name) <= 63 && !self.metadata.name.contains('.')",
        "metadata.name must have at most 63 characters and no dots: it is the job's name in the API and a label value",
    ),
    *variant_rules("spec.target", (EngineTarget, NamedDeployment, CommandTarget)),
    *variant_rules(_PARAMETER, (IntParameter, FloatParameter, ChoiceParameter)),
    Rule(
        _PARAMETER,
        "!has(self.low) || !has(self.high) || self.low <= self.high",
        "low must not exceed high",
        ".low",
    ),
    Rule(
        _PARAMETER,
        "!has(self.log) || !self.log || !has(self.low) || self.low > 0.0",
        "a log range begins above 0",
        ".log",
    ),
    Rule(
        _PARAMETER,
        "!has(self.log) || !self.log || !has(self.step) || self.step == 1",
        "a log range has no step: remove it",
        ".step",
    ),
    Rule(
        "spec.space",
        "self.parameters.all(a, self.parameters.exists_one(b, a.name == b.name))",
        "two parameters have the same name",
        ".parameters",
    ),
    Rule(
        "spec.limits[]",
        "has(self.atMost) != has(self.atLeast)",
        "give exactly one of atMost and atLeast",
        ".atMost",
    ),
    Rule("spec.measuring", "self.runsMin <= self.runsMax", "runsMin must not exceed runsMax", ".runsMin"),
    *(replace(rule, path="spec.load") for rule in SERVING if rule.path == "spec.workload"),
    *(_fixed(info.alias or name) for name, info in TuningJobSpec.model_fields.items() if name not in _CHANGEABLE),
    Rule(
        "spec.budget",
        "self.trials >= oldSelf.trials",
        "can only be raised: what was measured is not undone; suspend the job, or delete it",
        ".trials",
    ),
    Rule(
        "spec.budget",
        "has(self.hours) == has(oldSelf.hours) && (!has(self.hours) || self.hours == oldSelf.hours)",
        "cannot be changed once the job exists; make another TuningJob",
        ".hours",
    ),
)
