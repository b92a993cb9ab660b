"""`trimtab tune check`: what rules and known limits take away from a job's space."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from controlplane.cli.tune_place import JobPlace, at_place, output_option
from controlplane.cli.tune_spec import spec_of, spec_options

if TYPE_CHECKING:
    from controlplane.model.tuning_check import SpaceCheck


@click.command()
@at_place
@spec_options
@output_option
def check(place: JobPlace, output: str, **options: Any) -> None:
    """Check a job without measuring: what rules and known limits take away from its space.

    With --server the installation checks it, as it would when the job is made. Ends with 1 where nothing is left.

    \b
    trimtab tune check job.yaml
    trimtab tune check --engine openvino --model ./tiny --objective output_tokens_per_s
    trimtab tune check job.yaml --server https://trimtab.example -n team
    """
    spec, _ = spec_of(options)
    found = place.check(spec)
    if output == "json":
        click.echo(json.dumps(found.model_dump(mode="json", by_alias=True), indent=2))
    else:
        click.echo(checked_text(found))
    if found.error:
        click.echo(f"trimtab: {found.error}", err=True)
        raise click.exceptions.Exit(1)


def checked_text(found: SpaceCheck) -> str:
    from controlplane.cli.tune_text import columns  # noqa: PLC0415

    lines = [columns(["PARAMETER", "RANGE"], [[one.name, one.range] for one in found.parameters])]
    if found.fixed:
        lines.append(f"fixed: {' '.join(f'{name}={value}' for name, value in found.fixed.items())}")
    size = "endless" if found.settings is None else f"at most {found.settings:.4g}"
    lines.append(f"settings: {size}; {found.left_pct:.1f} % of the space may be measured ({found.draws} draws)")
    lines += [f"  rule {one.rule}: takes {one.takes_pct:.1f} % ({one.message})" for one in found.rules]
    lines += [f"  margin {one.margin[:120]}: takes {one.takes_pct:.1f} % ({one.message})" for one in found.margins]
    if found.cheap_level:
        lines.append(f"to begin with: {found.cheap_level}")
    for number, one in enumerate(found.first, 1):
        lines.append(
            f"  {number}. {' '.join(f'{name}={value}' for name, value in one.setting.items())} ({one.why.partition(' (')[0]})"
        )
    return "\n".join(lines)
