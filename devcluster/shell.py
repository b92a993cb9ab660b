"""Run a program to completion, or start one that stays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from devcluster.errors import CommandError, DevclusterError


def run(
    argv: Sequence[object],
    *,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    cwd: Path | None = None,
    timeout_s: float | None = None,
    log: Path | None = None,
) -> str:
    """Run `argv`, return its standard output. `env` adds to the environment; `log` also keeps the output in a file.

    Raises CommandError when the program fails, DevclusterError when it is missing or overruns `timeout_s`.
    """
    words = [str(word) for word in argv]
    full_env = {**os.environ, **env} if env else None
    try:
        done = subprocess.run(
            words,
            check=False,
            env=full_env,
            input=stdin,
            cwd=cwd,
            timeout=timeout_s,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL if stdin is None else None,
        )
    except FileNotFoundError as missing:
        raise DevclusterError(f"{words[0]} is not installed") from missing
    except subprocess.TimeoutExpired as late:
        raise DevclusterError(f"{' '.join(words[:6])} did not end within {timeout_s:g} s") from late
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(words)}\n{done.stdout}{done.stderr}")
    if done.returncode != 0:
        raise CommandError(words, done.returncode, done.stderr + done.stdout)
    return done.stdout


def succeeds(argv: Sequence[object]) -> bool:
    """Whether `argv` ends with status 0; its output is dropped."""
    try:
        run(argv)
    except DevclusterError:
        return False
    return True
