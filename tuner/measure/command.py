"""A user's command that prints `NAME=NUMBER` lines. It runs as the local user, without a shell: only where the caller is
that user (embedded). On a cluster such a command runs in a pod of the caller, never in a worker."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Sequence

from controlplane.model.errors import InvalidSpec
from controlplane.model.ports import StopSignal
from controlplane.model.tuning import Setting, Value, Verdict
from tuner.measure.definitions import Metrics
from tuner.measure.engine.classify import verdict_of
from tuner.measure.engine.process import GuardedProcess
from tuner.measure.engine.serving import NotServing

_LINE = re.compile(r"^\s*([A-Za-z][A-Za-z0-9_./-]{0,62})\s*=\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*$")
_PLACE = re.compile(r"\{([A-Za-z][A-Za-z0-9_]{0,62})\}")
_POLL_S = 0.2
_GRACE_S = 5.0


def argv_of(command: Sequence[str], setting: Setting, seed: int) -> list[str]:
    """`{name}` stands for a parameter's value, `{seed}` for the trial's seed; other braces stay. Raises InvalidSpec: a
    parameter that this setting has not got."""
    values: dict[str, Value] = {"seed": seed, **setting}

    def word(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise InvalidSpec(
                f"no parameter {match[1]!r} in this setting", field="target.command", value=match[0],
                limit=", ".join(sorted(values)), hint="a parameter with a condition is absent while it does not hold",
            )  # fmt: skip
        value = values[match[1]]
        return ("true" if value else "false") if isinstance(value, bool) else str(value)

    return [_PLACE.sub(word, part) for part in command]


def metrics_in(lines: Sequence[str]) -> Metrics:
    """The last line of a name counts. What is no finite number is passed over."""
    out: Metrics = {}
    for line in lines:
        match = _LINE.match(line)
        if match is not None:
            try:
                value = float(match[2])
            except ValueError:
                continue
            if math.isfinite(value):
                out[match[1]] = value
    return out


def run_command(
    argv: Sequence[str], *, locks: Sequence[int], cpus: Sequence[int], stop: StopSignal, deadline_s: float
) -> tuple[Metrics, float]:
    """Its metrics and its seconds. Raises NotServing with the verdict."""
    begun_s = time.monotonic()
    process = GuardedProcess(argv, dict(os.environ), cpus=cpus, locks=locks)
    try:
        while (ended := process.poll()) is None:
            if time.monotonic() > deadline_s:
                raise NotServing(
                    Verdict.INFEASIBLE, f"the command ran for {time.monotonic() - begun_s:.0f} s and longer"
                )
            if stop.wait(_POLL_S):
                raise NotServing(Verdict.INFRASTRUCTURE, "stopped")
    finally:
        process.end(_GRACE_S)
    if ended.exit_code != 0:
        raise NotServing(*verdict_of(ended, when="(the command)"))
    return metrics_in(ended.log), time.monotonic() - begun_s
