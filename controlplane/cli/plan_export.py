"""`trimtab plan serving --export`: the winner ready to be started."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from controlplane.model.errors import InvalidSpec, Unsupported
from controlplane.model.resource import DNS_LABEL_PATTERN, LABEL_VALUE_MAX

if TYPE_CHECKING:
    from controlplane.model.plans import ServingPlan

EXPORTS = {"vllm": "vllm", "sglang": "sglang", "trtllm": "trtllm-serve", "openvino": "openvino"}


def check_export(source: str | None, name: str | None) -> None:
    """Words of an export, before anything is planned. Raises InvalidSpec."""
    if name is not None and (len(name) > LABEL_VALUE_MAX or not re.fullmatch(DNS_LABEL_PATTERN, name)):
        raise InvalidSpec(
            "is no name that an object may have",
            field="--name",
            value=name[:80],
            limit=f"lower-case letters, digits and dashes, at most {LABEL_VALUE_MAX}, a letter or digit at both ends",
        )
    if source is not None:
        from operators.serving.source import parse  # noqa: PLC0415 - what the operator accepts, too

        parse(source, field="--source")


def exported(answer: ServingPlan, export: str, source: str | None, name: str | None, images: dict[str, str]) -> str:
    """The winner (of an engine's own lines: the best that runs it). What is lost on the way is told on standard error.
    Raises Unsupported where there is nothing to export."""
    from controlplane.catalog import load  # noqa: PLC0415
    from tuner.serving.planner.export import launch_lines, lost_split, manifest, object_name  # noqa: PLC0415
    from tuner.serving.resolve import find_model  # noqa: PLC0415

    if not answer.best:
        nearest = answer.why_not[0].message if answer.why_not else "nothing fits"
        raise Unsupported(f"there is no plan to export: {nearest}", field="export", value=export)
    catalog = load()
    model = find_model(catalog, answer.request.model)
    if export == "manifest":
        import yaml  # noqa: PLC0415

        if (said := lost_split(answer.best[0])) is not None:
            click.echo(f"warning: {said}", err=True)
        text: str = yaml.safe_dump(manifest(answer.best[0], answer.request, model, source, name), sort_keys=False)
        return text.rstrip("\n")
    if export == "kubernetes":
        import yaml  # noqa: PLC0415

        from tuner.serving.planner.export_nodes import unplaced  # noqa: PLC0415
        from tuner.serving.planner.export_plain import plain_manifests  # noqa: PLC0415

        for said in unplaced(answer.best[0].roles, catalog):
            click.echo(f"warning: {said}", err=True)
        title = object_name(model, name)
        objects = plain_manifests(answer.best[0], answer.request, model, source, catalog, title, images)
        plain: str = yaml.safe_dump_all(objects, sort_keys=False)
        return plain.rstrip("\n")
    wanted = EXPORTS[export]
    for candidate in answer.best:
        if all(role.choice.engine == wanted for role in candidate.roles):
            return "\n".join(launch_lines(candidate, model, source, catalog, answer.request.routing))
    raise Unsupported(
        f"no ranked deployment runs {wanted}", field="export", value=export, hint=f"allow it alone: --engine {wanted}"
    )
