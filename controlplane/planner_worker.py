"""`python -m controlplane.planner_worker FACTORY TRAINING_FACTORY OPTIONS MEMORY_BYTES`: the far end of `PlannerProcess`.

Reads one request a line (`serving` or `training`, and JSON), answers with lines: `progress`, then `plan` or `error`. Ends with its input.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from controlplane.model.errors import InvalidSpec, TrimtabError
from controlplane.model.plans import PlanRequest, ServingPlan
from controlplane.model.ports import ServingPlanner
from controlplane.model.training_plans import TrainingPlan, TrainingPlanRequest
from controlplane.model.training_ports import TrainingPlanner

_NICENESS = 10
# Lines a second: a planner may tell of every candidate.
_PROGRESS_STEP = 0.01


class _Voice:
    """Writes answer lines. Progress only when it has moved on or something new is being done."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._told: tuple[str, float] = ("", -1.0)

    def say(self, **what: Any) -> None:
        self._out.write(json.dumps(what).encode() + b"\n")
        self._out.flush()

    def progress(self, what: str, share: float) -> None:
        share = min(1.0, max(0.0, share))
        before, told = self._told
        if what != before or abs(share - told) >= _PROGRESS_STEP:
            self._told = (what, share)
            self.say(progress=[what, share])


def main(argv: list[str]) -> None:
    factories, options, memory_bytes = {"serving": argv[0], "training": argv[1]}, json.loads(argv[2]), int(argv[3])
    _modest(memory_bytes)
    # Whatever a library prints must not stand between the lines of an answer.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    planners: dict[str, Any] = {}
    for line in sys.stdin.buffer:
        voice = _Voice(out)
        try:
            kind, _, asked = line.decode().partition(" ")
            if kind not in planners:
                module, _, name = factories[kind].partition(":")
                planners[kind] = getattr(importlib.import_module(module), name)(options)
            plan = _planned(planners[kind], kind, asked, voice)
            voice.say(plan=plan.model_dump(mode="json", by_alias=True, exclude_none=True))
        except TrimtabError as error:
            voice.say(error={**error.as_dict(), "value": _shown(error.value), "class": type(error).__name__})
        except ValidationError as error:
            voice.say(error={"class": InvalidSpec.__name__, "message": str(error)})
        except MemoryError:
            said = f"planning needs more than {memory_bytes // 2**20} MiB"
            hint = "allow fewer pools, engines or accelerators"
            voice.say(error={"class": "Refused", "code": "PlannerDied", "message": said, "hint": hint})
            return  # what is left of the heap is not worth keeping
        except Exception as error:
            traceback.print_exc()
            said = f"the planner failed: {type(error).__name__}: {error}"
            voice.say(error={"class": "Refused", "code": "PlannerDied", "message": said})


def _planned(planner: Any, kind: str, asked: str, voice: _Voice) -> ServingPlan | TrainingPlan:
    if kind == "training":
        trainer: TrainingPlanner = planner
        return trainer.plan(TrainingPlanRequest.model_validate_json(asked), progress=voice.progress)
    server: ServingPlanner = planner
    return server.plan(PlanRequest.model_validate_json(asked), progress=voice.progress)


def _shown(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _modest(memory_bytes: int) -> None:
    """Others first: low priority, bounded memory, and the first to go when the container runs out of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICENESS)
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main(sys.argv[1:])
