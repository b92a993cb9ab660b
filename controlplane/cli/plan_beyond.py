"""What `trimtab plan serving` says beyond the plan: what-ifs and the day, as text or as part of the one document."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic.alias_generators import to_camel

if TYPE_CHECKING:
    from controlplane.model.plans import ServingPlan


def what_if(before: ServingPlan, after: ServingPlan, change: str, *, table: bool) -> Any:
    """One change and what it makes: lines for people, or an item of the document's `whatIf`."""
    from controlplane.cli.plan_table import what_if_text  # noqa: PLC0415
    from tuner.serving.planner.whatif import difference  # noqa: PLC0415

    found = difference(change, before, after)
    return what_if_text(found) if table else _camel(found.as_dict())


def day(answer: ServingPlan, trace: Path, startup_s: float, *, table: bool) -> Any:
    """Replicas over a trace: lines for people, or the document's `daily`. Raises Unsupported or InvalidSpec."""
    from controlplane.cli.plan_table import daily_text  # noqa: PLC0415
    from tuner.serving.planner.daily import daily_plan  # noqa: PLC0415

    found = daily_plan(answer, trace, startup_s=startup_s)
    return daily_text(found) if table else _camel(found.as_dict())


def document(answer: ServingPlan, changes: Iterable[Any], daily: Any) -> dict[str, Any]:
    """The answer as one object, with `whatIf` and `daily` where they were asked for."""
    data: dict[str, Any] = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
    listed = list(changes)
    if listed:
        data["whatIf"] = listed
    if daily is not None:
        data["daily"] = daily
    return data


def _camel(value: Any) -> Any:
    """Keys as the answer spells them; pairs as lists, which YAML has too."""
    if isinstance(value, dict):
        return {to_camel(name): _camel(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_camel(item) for item in value]
    return value
