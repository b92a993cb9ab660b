"""What every custom resource shares: naming style, conditions, the API group."""

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP = "trimtab.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
LABEL_VALUE_MAX = 63

DnsLabel = Annotated[str, Field(pattern=DNS_LABEL_PATTERN, min_length=1, max_length=LABEL_VALUE_MAX)]
# A label key is PREFIX/NAME: a prefix of at most 253 characters, a name of at most 63.
LabelKey = Annotated[str, Field(min_length=1, max_length=253 + 1 + LABEL_VALUE_MAX)]
LabelValue = Annotated[str, Field(max_length=LABEL_VALUE_MAX)]


def is_dns_label(name: str) -> bool:
    """Whether other objects may name it: names of custom resources may hold dots and be longer."""
    return len(name) <= LABEL_VALUE_MAX and re.fullmatch(DNS_LABEL_PATTERN, name) is not None


class Part(BaseModel):
    """Base of everything inside a custom resource: camelCase on the wire, immutable, unknown fields refused, and
    numbers that are none (JSON has no word for NaN and infinity, the parser does)."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
    )


class StatusPart(Part):
    """Base of status types: unknown fields are ignored, so that an older reader survives a newer writer."""

    model_config = ConfigDict(extra="ignore")


class Condition(StatusPart):
    """A standard Kubernetes condition (metav1.Condition)."""

    type: str = Field(max_length=316, description="What is judged, for example Ready.")
    status: Literal["True", "False", "Unknown"] = Field(description="The verdict.")
    reason: str = Field(
        min_length=1,
        max_length=1024,
        description="One machine-readable word in CamelCase: the dominant cause.",
    )
    message: str = Field(
        default="", max_length=32768, description="The same for a person, with numbers and the way out."
    )
    observed_generation: int | None = Field(
        default=None, ge=0, description="The metadata.generation this verdict was formed on."
    )
    last_transition_time: datetime = Field(description="When status last changed.")


class ObjectMeta(StatusPart):
    """The part of metadata our code reads."""

    name: str
    namespace: str | None = None
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)


def rfc3339(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as the API server writes metav1.Time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
