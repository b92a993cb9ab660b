"""`trimtab tune apply|undo`: a job's winner into a deployment, in a manifest, on a cluster, or through an API; and out again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from controlplane.cli.tune_place import JobPlace, job_argument, place_of, server_of
from controlplane.model.errors import InvalidSpec

if TYPE_CHECKING:
    from controlplane.model.canary import Canary
    from controlplane.model.tuning_apply import Applied
    from controlplane.model.tuning_decision import TuningDecision
    from controlplane.model.tuning_records import TuningJobRecord
    from controlplane.tuning_apply import Document, Patch
    from controlplane.tuning_canary import Latencies

_SUFFIXES = (".yaml", ".yml", ".json")
_NEWEST = 100  # trials: those that confirm come last


class Place(Protocol):
    """Where a deployment stands."""

    def read(self) -> Document: ...

    def write(self, patch: Patch, *, dry_run: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is written where, and how."""

    to: str
    namespace: str | None
    canary: int | None = None
    every_choice: bool = False
    force: bool = False
    undo: bool = False
    dry_run: bool = False
    out: Path | None = None
    kubeconfig: str | None = None
    output: str = "table"

    @property
    def in_file(self) -> bool:
        return self.to.endswith(_SUFFIXES)


def _where_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("-o", "--output", type=click.Choice(["table", "json", "kubectl"]), default="table", show_default=True),
        click.option("--state-dir", type=click.Path(file_okay=False, path_type=Path), help="Jobs of this machine are kept here (TRIMTAB_STATE_DIR)."),
        click.option("--server", metavar="URL", help="The job is one of this Trimtab API (TRIMTAB_SERVER); token in TRIMTAB_TOKEN."),
        click.option("--kubeconfig", help="Kubeconfig file. The usual places when absent."),
        click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="With a manifest: the file to write."),
        click.option("--dry-run", is_flag=True, help="Show what would change; a cluster judges it and keeps nothing."),
        click.option("-n", "--namespace", help="Namespace of the deployment (default; with --server the job's)."),
        click.option("--to", required=True, metavar="NAME|FILE", help="ServingDeployment, or a manifest that holds it."),
        job_argument,
    ):  # fmt: skip
        command = option(command)
    return command


@click.command()
@_where_options
@click.option("--canary", type=click.IntRange(1, 100), metavar="N", help="Try it on N replicas beside what serves now.")
@click.option(
    "--every-choice", is_flag=True, help="Into every accelerator choice with this engine, not the first only."
)
@click.option("--force", is_flag=True, help="Although it is not shown to be better, or things differ.")
@click.option("--undo", is_flag=True, help="Bring back what stood there before, as `tune undo` does.")
def apply(job: str, server: str | None, state_dir: Path | None, **wanted: Any) -> None:
    """Write a job's best setting into a ServingDeployment, with your own rights.

    What stood there before is kept in an annotation: --undo brings it back. Refused where the decision does not say
    `better`, the engine differs, or the planner chooses the settings (spec.auto).

    \b
    On the cluster of your kubeconfig, one replica of it beside what serves now:
      trimtab tune apply nightly --to chat -n team --canary 1
    Into a manifest; or as a kubectl command for later:
      trimtab tune apply nightly --to chat.yaml --out chat.yaml
      trimtab tune apply nightly --to chat.yaml -o kubectl
    A job of a Trimtab API, into the deployment there or into a manifest here:
      trimtab tune apply nightly --to chat -n team --canary 1 --server https://trimtab.example
      trimtab tune apply nightly --to chat.yaml --server https://trimtab.example
    """
    _do(job, server, state_dir, _Wanted(**wanted))


@click.command()
@_where_options
@click.option("--force", is_flag=True, help="Although somebody changed the settings since.")
def undo(job: str, server: str | None, state_dir: Path | None, **wanted: Any) -> None:
    """Bring back what stood in a ServingDeployment before a job's best setting was applied.

    \b
    trimtab tune undo nightly --to chat -n team
    trimtab tune undo nightly --to chat --server https://trimtab.example
    """
    _do(job, server, state_dir, _Wanted(undo=True, **wanted))


def _do(job: str, server: str | None, state_dir: Path | None, wanted: _Wanted) -> None:
    if wanted.out is not None and not wanted.in_file:
        raise click.UsageError("--out writes a manifest: name one with --to")
    there = server_of(server, state_dir) is not None
    with place_of(server, wanted.namespace if there else None, state_dir) as place:
        if there and not wanted.in_file:
            if wanted.kubeconfig is not None:
                raise click.UsageError("--kubeconfig and --server: the API writes with your token")
            if wanted.output == "kubectl":
                raise click.UsageError("-o kubectl needs a manifest or a kubeconfig's cluster to look at")
            applied = _by_api(place, job, wanted)
            _tell(applied.model_copy(update={"undo": _way_back(job, wanted, there=server)}), None, wanted)
            return
        document_place = _place(wanted)
        document = document_place.read()
        job_id, patch = _patch(place, job, document, wanted)
    dry_run = wanted.dry_run or wanted.output == "kubectl"
    if patch.body:
        document_place.write(patch, dry_run=dry_run)
    _tell(_applied(job_id, document, patch, wanted, dry_run=dry_run), patch, wanted)


def _by_api(place: JobPlace, job: str, wanted: _Wanted) -> Applied:
    from controlplane.cli.tune_server import ServerJobs  # noqa: PLC0415

    assert isinstance(place, ServerJobs)
    body: dict[str, Any] = {"deployment": wanted.to, "namespace": wanted.namespace, "force": wanted.force, "dryRun": wanted.dry_run}  # fmt: skip
    if not wanted.undo:
        canary = None if wanted.canary is None else {"replicas": wanted.canary}
        body |= {"everyChoice": wanted.every_choice, "canary": canary}
    return place.applied(place.find(job).id, "undo" if wanted.undo else "apply", body)


def _place(wanted: _Wanted) -> Place:
    if wanted.in_file:
        from controlplane.cli.tune_manifest import Manifest  # noqa: PLC0415 - YAML

        return Manifest(Path(wanted.to), wanted.out)
    try:
        from controlplane.cli.tune_cluster import ClusterPlace  # noqa: PLC0415 - the Kubernetes client: an extra
    except ImportError:
        from controlplane.model.errors import Unsupported  # noqa: PLC0415

        raise Unsupported(
            "reaching a cluster needs the Kubernetes client",
            field="--to",
            value=wanted.to,
            hint="pip install 'trimtab[operator]', or name a manifest file",
        ) from None
    return ClusterPlace(wanted.to, wanted.namespace or "default", wanted.kubeconfig)


def _patch(place: JobPlace, word: str, document: Document, wanted: _Wanted) -> tuple[str, Patch]:
    from controlplane.tuning_apply import apply_best  # noqa: PLC0415
    from controlplane.tuning_undo import take_back  # noqa: PLC0415

    record = place.find(word)
    if wanted.undo:
        return record.id, take_back(document, job=record.id, force=wanted.force)
    decision = place.decision(record)
    return record.id, apply_best(
        record,
        decision,
        document,
        canary=_canary(wanted.canary),
        force=wanted.force,
        every_choice=wanted.every_choice,
        measured=_measured(place, record, decision),
    )


def _measured(place: JobPlace, record: TuningJobRecord, decision: TuningDecision) -> Latencies:
    """What a canary would judge, of the runs that confirmed the best."""
    from controlplane.tuning_canary import confirming, latencies  # noqa: PLC0415

    first = max(0, record.counts.asked - _NEWEST)
    trials = place.trials(record.id, limit=_NEWEST, offset=first)
    numbers = [number for side in confirming(trials, decision) for number in side]
    found = [attempt for number in numbers for attempt in place.trial(record.id, number)[1]]
    return latencies(trials, found, decision)


def _canary(replicas: int | None) -> Canary | None:
    from controlplane.model.canary import Canary  # noqa: PLC0415

    return None if replicas is None else Canary(replicas=replicas)


def _applied(job: str, document: Document, patch: Patch, wanted: _Wanted, *, dry_run: bool) -> Applied:
    from pydantic import ValidationError  # noqa: PLC0415

    from controlplane.model.tuning_apply import Applied  # noqa: PLC0415

    metadata = document["metadata"]
    try:
        return Applied(
            job=job,
            namespace=wanted.namespace or metadata.get("namespace") or "default",
            deployment=str(metadata.get("name", "")),
            written=bool(patch.body) and not dry_run,
            changes=list(patch.changes),
            warnings=list(patch.warnings),
            undo=_way_back(job, wanted),
        )
    except ValidationError as error:
        raise InvalidSpec(error.errors()[0]["msg"], field="--namespace", value=wanted.namespace) from None


def _way_back(job: str, wanted: _Wanted, there: str | None = None) -> str:
    """`there`: an API that was named; one of the environment is still there."""
    where = "" if wanted.namespace is None else f" -n {shlex.quote(wanted.namespace)}"
    return f"trimtab tune apply {shlex.quote(job)} --to {shlex.quote(wanted.to)}{where} --undo{f' --server {shlex.quote(there)}' if there else ''}"


def _tell(applied: Applied, patch: Patch | None, wanted: _Wanted) -> None:
    for warning in applied.warnings:
        click.echo(f"warning: {warning}", err=True)
    if wanted.output == "json":
        click.echo(json.dumps(applied.model_dump(mode="json", by_alias=True), indent=2))
        return
    if wanted.output == "kubectl" and patch is not None:
        if patch.body:
            click.echo(_kubectl(applied, patch.body))
        return
    for change in applied.changes:
        click.echo(f"{change.field}: {_text(change.before)} -> {_text(change.after)}", err=True)
    if not applied.changes:
        click.echo(f"{applied.deployment} has these settings already", err=True)
    elif applied.written:
        click.echo("written" if wanted.undo else f"written; take it back with: {applied.undo}", err=True)
    else:
        click.echo("nothing is written", err=True)


def _kubectl(applied: Applied, body: dict[str, Any]) -> str:
    text = json.dumps(body, separators=(",", ":"))
    return f"kubectl patch servingdeployment {applied.deployment} -n {applied.namespace} --type merge -p {shlex.quote(text)}"


def _text(value: Any) -> str:
    return "-" if value is None else json.dumps(value)
