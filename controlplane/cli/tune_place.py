"""Where tuning jobs are: a state directory on this machine, or a Trimtab API. One set of words for both."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from controlplane.model.tuning import JobState, TrialState
    from controlplane.model.tuning_check import SpaceCheck
    from controlplane.model.tuning_decision import TuningDecision
    from controlplane.model.tuning_job import TuningSpec
    from controlplane.model.tuning_records import MeasuredAttempt, TrialRecord, TuningEvent, TuningJobRecord

Order = Literal["number", "value", "-value"]
JOBS_MAX = 500
_COMPLETION_TIMEOUT_S = 2.0


class JobPlace(Protocol):
    """Jobs as the commands see them. `where`: in words; `options`: what a command has to be given to come here again.
    Everything raises UnknownName, InvalidSpec, Unsupported or Refused with the same words on either side."""

    where: str
    options: str
    remote: bool

    def jobs(self, states: Sequence[JobState] = ()) -> list[TuningJobRecord]:
        """Newest first, JOBS_MAX at most."""

    def find(self, word: str) -> TuningJobRecord:
        """A job by its id, its name, or how its id begins, with its progress."""

    def get(self, job: str) -> TuningJobRecord:
        """By its id, with its progress."""

    def create(self, name: str, spec: TuningSpec) -> TuningJobRecord:
        """A new job that may run here."""

    def check(self, spec: TuningSpec) -> SpaceCheck:
        """What is left of its space; nothing is made."""

    def clone(self, job: str, name: str) -> TuningJobRecord: ...

    def pause(self, job: str) -> TuningJobRecord: ...

    def resume(self, job: str) -> TuningJobRecord: ...

    def cancel(self, job: str) -> TuningJobRecord: ...

    def extend(self, job: str, trials: int) -> TuningJobRecord:
        """`trials`: in all."""

    def delete(self, job: str) -> None: ...

    def trials(
        self, job: str, *, states: Sequence[TrialState] = (), order: Order = "number", limit: int = 100, offset: int = 0
    ) -> list[TrialRecord]: ...

    def trial(self, job: str, number: int) -> tuple[TrialRecord, list[MeasuredAttempt]]:
        """One trial and what its attempts measured."""

    def decision(self, record: TuningJobRecord) -> TuningDecision:
        """As kept, or as it would be now."""

    def report(self, record: TuningJobRecord) -> str:
        """HTML."""

    def bundle(self, record: TuningJobRecord) -> bytes:
        """tar.gz."""

    def happened(self, job: str, after: int, wait_s: float) -> tuple[list[TuningEvent], str | None]:
        """Events after this one, waiting a while for the first, and why none can come just now, if that is so."""


def place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--server`, `-n` and `--state-dir`, for a command that opens its place itself."""
    for option in (
        click.option("--state-dir", type=click.Path(file_okay=False, path_type=Path), help="Jobs of this machine are kept here (TRIMTAB_STATE_DIR)."),
        click.option("-n", "--namespace", help="With --server: the namespace. A new job's is default; others are looked for everywhere."),
        click.option("--server", metavar="URL", help="Jobs of this Trimtab API (TRIMTAB_SERVER); token in TRIMTAB_TOKEN."),
    ):  # fmt: skip
        command = option(command)
    return command


def at_place(command: Callable[..., Any]) -> Callable[..., Any]:
    """Calls the command with the place that its options name, opened, as its first argument."""

    @functools.wraps(command)
    def called(*args: Any, server: str | None, namespace: str | None, state_dir: Path | None, **rest: Any) -> Any:
        if server_of(server, state_dir) is not None:
            namespace = namespace or namespace_in(rest.get("file"))
        with place_of(server, namespace, state_dir) as place:
            return command(place, *args, **rest)

    return place_options(called)


def namespace_in(file: Path | None) -> str | None:
    """That a manifest states, if one does; what else is wrong with it is told by who reads it whole."""
    from controlplane.cli.tune_spec import document_of  # noqa: PLC0415
    from controlplane.model.errors import InvalidSpec  # noqa: PLC0415

    try:
        metadata = {} if file is None else document_of(file).get("metadata")
    except InvalidSpec:
        return None
    stated = metadata.get("namespace") if isinstance(metadata, dict) else None
    return stated if isinstance(stated, str) else None


def server_of(server: str | None, state_dir: Path | None) -> str | None:
    """The API that is meant, if one is. An option counts more than the environment. Raises UsageError."""
    if server and state_dir is not None:
        raise click.UsageError("--server and --state-dir: jobs are there or here")
    if server is None and state_dir is None:
        server = os.environ.get("TRIMTAB_SERVER")
    return server or None


@contextmanager
def place_of(
    server: str | None, namespace: str | None, state_dir: Path | None, *, timeout_s: float | None = None
) -> Iterator[JobPlace]:
    """Raises UsageError, InvalidSpec for an address or a folder that cannot be used."""
    server = server_of(server, state_dir)
    if server is not None:
        from controlplane.cli.tune_http import Http  # noqa: PLC0415 - 40 ms that --help can do without
        from controlplane.cli.tune_server import ServerJobs  # noqa: PLC0415

        more = {} if timeout_s is None else {"timeout_s": timeout_s}
        yield ServerJobs(Http(server, os.environ.get("TRIMTAB_TOKEN"), **more), namespace)
        return
    if namespace is not None:
        raise click.UsageError("-n goes with --server: jobs of this machine have no namespace")
    from controlplane.cli.tune_local import LocalJobs  # noqa: PLC0415 - SQLAlchemy
    from controlplane.tuning_embedded import local_tuning, state_folder  # noqa: PLC0415

    with local_tuning(state_dir or state_folder(os.environ)) as local:
        yield LocalJobs(local, "" if state_dir is None else f" --state-dir {state_dir}")


def _names(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """Jobs for the shell to offer. Whatever goes wrong, it offers none."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415

    try:
        where = (ctx.params.get("server"), ctx.params.get("namespace"), ctx.params.get("state_dir"))
        with place_of(*where, timeout_s=_COMPLETION_TIMEOUT_S) as place:
            return [
                CompletionItem(job.name, help=f"{job.state.value}, {job.spec.objectives[0].metric}")
                for job in place.jobs()
                if job.name.startswith(begun)
            ]
    except Exception:  # a traceback in somebody's command line helps nobody
        return []


job_argument = click.argument("job", shell_complete=_names)
output_option = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
