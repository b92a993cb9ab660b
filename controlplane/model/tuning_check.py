"""What is left of a search space before anything is measured."""

from __future__ import annotations

from pydantic import Field

from controlplane.model.resource import Part
from controlplane.model.tuning import Setting


class CheckedParameter(Part):
    """A searched parameter; `range` in words."""

    name: str
    range: str


class CheckedRule(Part):
    """A rule, and what it alone refuses."""

    rule: str
    message: str
    takes_pct: float


class CheckedMargin(Part):
    """A known limit with its slack, and what it alone refuses."""

    margin: str
    slack: float
    message: str
    takes_pct: float


class FirstSetting(Part):
    """A setting that would be measured before any result is known."""

    setting: Setting
    why: str


class SpaceCheck(Part):
    """Shares are of uniform draws."""

    parameters: list[CheckedParameter]
    fixed: Setting
    settings: float | None = Field(description="How many there are at most; null: endlessly many.")
    left_pct: float = Field(description="What may be measured.")
    draws: int
    rules: list[CheckedRule]
    margins: list[CheckedMargin]
    cheap_level: str | None = Field(description="Where the search would look first, and why.")
    first: list[FirstSetting] = Field(description="Settings that would be measured first.")
    error: str | None = Field(description="Why the job cannot be made, where its rules leave nothing.")
