"""A tuning job's best setting as it goes into a `ServingDeployment`, and what it says of that."""

from __future__ import annotations

from pydantic import Field, JsonValue

from controlplane.model.resource import GROUP, DnsLabel, Part

# Annotations of the ServingDeployment: which job wrote its settings, and what stood there before.
TUNED_BY = f"{GROUP}/tuned-by"
TUNED_BEFORE = f"{GROUP}/tuned-before"


class FieldChange(Part):
    """One field of the deployment. None: it does not stand there."""

    field: str = Field(max_length=256, description="Path, for example spec.explicit.choices[0].knobs.maxNumSeqs.")
    before: JsonValue = Field(default=None, description="What stood there; null: nothing.")
    after: JsonValue = Field(default=None, description="What stands there now; null: nothing.")


class Applied(Part):
    """What was written into a deployment, or would be."""

    job: str = Field(description="Id of the tuning job.")
    namespace: DnsLabel = Field(description="Namespace of the deployment.")
    deployment: str = Field(description="The deployment.")
    written: bool = Field(description="False: a dry run, or nothing to change.")
    # 16 choices of 16 shape fields and 64 parameters, and a canary.
    changes: list[FieldChange] = Field(max_length=16 * 80 + 1, description="Every field that differs.")
    warnings: list[str] = Field(max_length=32, description="What the measurements do not say of this deployment.")
    undo: str = Field(description="How to take it back.")
