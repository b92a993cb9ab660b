"""`trimtab tune apply`: a job's winner into a deployment, in a manifest, on a cluster, or through an API; and out again."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from controlplane.cli.tune_run import state_option
from controlplane.model.errors import InvalidSpec

if TYPE_CHECKING:
    from controlplane.model.canary import Canary
    from controlplane.model.tuning_apply import Applied
    from controlplane.tuning_apply import Document, Patch

_SUFFIXES = (".yaml", ".yml", ".json")


class Place(Protocol):
    """Where a deployment stands."""

    def read(self) -> Document: ...

    def write(self, patch: Patch, *, dry_run: bool) -> None: ...


@click.command()
@click.argument("job")
@click.option("--to", required=True, metavar="NAME|FILE", help="ServingDeployment, or a manifest that holds it.")
@click.option("-n", "--namespace", help="Namespace of the deployment (default; with --server the job's).")
@click.option("--canary", type=click.IntRange(1, 100), metavar="N", help="Try it on N replicas beside what serves now.")
@click.option(
    "--every-choice", is_flag=True, help="Into every accelerator choice with this engine, not the first only."
)
@click.option("--force", is_flag=True, help="Although it is not shown to be better, or things differ.")
@click.option("--undo", is_flag=True, help="Bring back what stood there before.")
@click.option("--dry-run", is_flag=True, help="Show what would change; a cluster judges it and keeps nothing.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="With a manifest: the file to write.")
@click.option("--kubeconfig", help="Kubeconfig file. The usual places when absent.")
@click.option("--server", metavar="URL", help="The job is one of this Trimtab API; token in TRIMTAB_TOKEN.")
@state_option
@click.option("-o", "--output", type=click.Choice(["table", "json", "kubectl"]), default="table", show_default=True)
def apply(
    job: str,
    to: str,
    namespace: str | None,
    canary: int | None,
    every_choice: bool,
    force: bool,
    undo: bool,
    dry_run: bool,
    out: Path | None,
    kubeconfig: str | None,
    server: str | None,
    state_dir: Path | None,
    output: str,
) -> None:
    """Write a job's best setting into a ServingDeployment, with your own rights.

    What stood there before is kept in an annotation: --undo brings it back. Refused where the decision does not say
    `better`, the engine differs, or the planner chooses the settings (spec.auto).

    \b
    On the cluster of your kubeconfig, one replica of it beside what serves now:
      trimtab tune apply nightly --to chat -n team --canary 1
    Into a manifest; or as a kubectl command for later:
      trimtab tune apply nightly --to chat.yaml --out chat.yaml
      trimtab tune apply nightly --to chat.yaml -o kubectl
    A job of a Trimtab API:
      trimtab tune apply 9f86d081884c7d65 --to chat --canary 1 --server https://trimtab.example
    """
    if out is not None and not to.endswith(_SUFFIXES):
        raise click.UsageError("--out writes a manifest: name one with --to")
    if server is not None:
        from controlplane.cli.tune_server import applied_by  # noqa: PLC0415

        body: dict[str, Any] = {"deployment": to, "namespace": namespace, "force": force, "dryRun": dry_run}
        if not undo:
            body |= {"everyChoice": every_choice, "canary": None if canary is None else {"replicas": canary}}
        applied = applied_by(server, job, "undo" if undo else "apply", body, os.environ.get("TRIMTAB_TOKEN"))
        way_back = f"{_way_back(job, to, namespace)} --server {shlex.quote(server)}"
        _tell(applied.model_copy(update={"undo": way_back}), None, output, undone=undo)
        return
    place = _place(to, namespace or "default", kubeconfig, out)
    document = place.read()
    job_id, patch = _patch(job, document, state_dir, canary, force, every_choice, undo)
    if patch.body:
        place.write(patch, dry_run=dry_run or output == "kubectl")
    applied = _applied(job_id, document, namespace, patch, dry_run or output == "kubectl", to)
    _tell(applied, patch, output, undone=undo)


def _place(to: str, namespace: str, kubeconfig: str | None, out: Path | None) -> Place:
    if to.endswith(_SUFFIXES):
        from controlplane.cli.tune_manifest import Manifest  # noqa: PLC0415 - YAML

        return Manifest(Path(to), out)
    try:
        from controlplane.cli.tune_cluster import ClusterPlace  # noqa: PLC0415 - the Kubernetes client: an extra
    except ImportError:
        from controlplane.model.errors import Unsupported  # noqa: PLC0415

        raise Unsupported(
            "reaching a cluster needs the Kubernetes client",
            field="--to",
            value=to,
            hint="pip install 'trimtab[operator]', or name a manifest file",
        ) from None
    return ClusterPlace(to, namespace, kubeconfig)


def _patch(
    word: str,
    document: Document,
    state_dir: Path | None,
    canary: int | None,
    force: bool,
    every_choice: bool,
    undo: bool,
) -> tuple[str, Patch]:
    from controlplane.tuning_apply import apply_best  # noqa: PLC0415
    from controlplane.tuning_embedded import local_tuning, state_folder  # noqa: PLC0415 - SQLAlchemy: not for --help
    from controlplane.tuning_files import decision_of  # noqa: PLC0415
    from controlplane.tuning_undo import take_back  # noqa: PLC0415

    with local_tuning(state_dir or state_folder(os.environ)) as local:
        record = local.find(word)
        if undo:
            return record.id, take_back(document, job=record.id, force=force)
        decision = decision_of(local.database, record)
        tried = _canary(canary)
        return record.id, apply_best(record, decision, document, canary=tried, force=force, every_choice=every_choice)


def _canary(replicas: int | None) -> Canary | None:
    from controlplane.model.canary import Canary  # noqa: PLC0415

    return None if replicas is None else Canary(replicas=replicas)


def _applied(job: str, document: Document, namespace: str | None, patch: Patch, dry_run: bool, to: str) -> Applied:
    from pydantic import ValidationError  # noqa: PLC0415

    from controlplane.model.tuning_apply import Applied  # noqa: PLC0415

    metadata = document["metadata"]
    try:
        return Applied(
            job=job,
            namespace=namespace or metadata.get("namespace") or "default",
            deployment=str(metadata.get("name", "")),
            written=bool(patch.body) and not dry_run,
            changes=list(patch.changes),
            warnings=list(patch.warnings),
            undo=_way_back(job, to, namespace),
        )
    except ValidationError as error:
        raise InvalidSpec(error.errors()[0]["msg"], field="--namespace", value=namespace) from None


def _way_back(job: str, to: str, namespace: str | None) -> str:
    where = "" if namespace is None else f" -n {shlex.quote(namespace)}"
    return f"trimtab tune apply {shlex.quote(job)} --to {shlex.quote(to)}{where} --undo"


def _tell(applied: Applied, patch: Patch | None, output: str, *, undone: bool) -> None:
    for warning in applied.warnings:
        click.echo(f"warning: {warning}", err=True)
    if output == "json":
        click.echo(json.dumps(applied.model_dump(mode="json", by_alias=True), indent=2))
        return
    if output == "kubectl" and patch is not None:
        if patch.body:
            click.echo(_kubectl(applied, patch.body))
        return
    for change in applied.changes:
        click.echo(f"{change.field}: {_text(change.before)} -> {_text(change.after)}", err=True)
    if not applied.changes:
        click.echo(f"{applied.deployment} has these settings already", err=True)
    elif applied.written:
        click.echo("written" if undone else f"written; take it back with: {applied.undo}", err=True)
    else:
        click.echo("nothing is written", err=True)


def _kubectl(applied: Applied, body: dict[str, Any]) -> str:
    text = json.dumps(body, separators=(",", ":"))
    return f"kubectl patch servingdeployment {applied.deployment} -n {applied.namespace} --type merge -p {shlex.quote(text)}"


def _text(value: Any) -> str:
    return "-" if value is None else json.dumps(value)
