"""`trimtab tune`: search an engine's or a command's settings by real measurements, on this machine or at a Trimtab API."""

from __future__ import annotations

import difflib

import click

from controlplane.cli.tune_apply import apply, undo
from controlplane.cli.tune_check import check
from controlplane.cli.tune_compare import compare
from controlplane.cli.tune_files import bundle, report
from controlplane.cli.tune_look import best, list_jobs, show, trials, why
from controlplane.cli.tune_run import run
from controlplane.cli.tune_steer import cancel, clone, delete, extend, pause, resume
from controlplane.cli.tune_watch import watch

# What other tools call it.
_ALSO = {
    "create": "run", "start": "run", "submit": "run", "follow": "watch", "logs": "watch", "tail": "watch", "ls": "list",
    "get": "show", "status": "show", "describe": "show", "stop": "cancel", "kill": "cancel", "rm": "delete",
    "remove": "delete", "export": "bundle", "download": "bundle", "copy": "clone", "budget": "extend",
    "continue": "resume", "unpause": "resume", "explain": "why", "rollback": "undo", "revert": "undo", "deploy": "apply",
    "validate": "check", "html": "report",
}  # fmt: skip


class _Suggesting(click.Group):
    """A word that is no command gets the nearest that is."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0] if args else ""
        if word and not word.startswith("-") and self.get_command(ctx, word) is None:
            near = next(iter(difflib.get_close_matches(word.lower(), [*self.list_commands(ctx), *_ALSO], n=1)), None)
            meant = None if near is None else _ALSO.get(near, near)
            hint = f"did you mean {meant!r}?" if meant else "--help lists them"
            raise click.UsageError(f"no such command {word!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Suggesting)
def tune() -> None:
    """Tune an engine or a command on real measurements.

    Jobs of this machine live in a state directory (--state-dir, TRIMTAB_STATE_DIR, ~/.local/state/trimtab) and survive
    whatever ends the process; their engines and commands run as you. With --server URL (TRIMTAB_SERVER; token in
    TRIMTAB_TOKEN) the same words speak of the jobs of a Trimtab API, which run in pods. A JOB is a name, an id, or how an
    id begins.

    \b
    trimtab tune run --engine openvino --model ./tiny --objective output_tokens_per_s
    trimtab tune watch nightly
    trimtab tune apply nightly --to chat.yaml --out chat.yaml
    """


for _command in (
    run, check, compare, list_jobs, show, watch, trials, best, why, pause, resume, cancel, extend, clone, delete, report,
    bundle, apply, undo,
):  # fmt: skip
    tune.add_command(_command)
