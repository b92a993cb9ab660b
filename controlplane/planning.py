"""The planner in a process of its own: an event loop asks, a hung or dead planner is replaced.

One line each way, the kind of question and JSON there, JSON back (`controlplane.planner_worker` is the other end), so that progress can be told while it computes
and nothing is ever unpickled. The process starts when first asked, runs at low priority under a memory limit, and ends
when nobody has asked for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from controlplane.model.errors import InvalidSpec, Refused, TrimtabError, UnknownName, Unsupported
from controlplane.model.plans import PlanRequest, ServingPlan
from controlplane.model.ports import PLANNER_DOWN, ServingPlanner
from controlplane.model.resource import Part
from controlplane.model.routers import SPLITS
from controlplane.model.training_plans import TrainingPlan, TrainingPlanRequest
from controlplane.model.training_ports import TrainingPlanner
from controlplane.settings import ApiSettings, OperatorSettings

log = logging.getLogger(__name__)

PLANNER = "controlplane.planning:serving_planner"
TRAINING_PLANNER = "controlplane.planning:training_planner"
DEFAULT_TIMEOUT_S = 120.0
# Measured: 320 MB resident for an 8B model on two kinds of GPU, table package loaded.
DEFAULT_MEMORY_BYTES = 2**30
_IDLE_S = 900.0
_LINE_BYTES_MAX = 16 * 2**20
_ERRORS: Mapping[str, type[TrimtabError]] = {
    error.__name__: error for error in (InvalidSpec, UnknownName, Unsupported, Refused)
}
Progress = Callable[[str, float], None]
P = TypeVar("P", ServingPlan, TrainingPlan)


def planner_options(settings: OperatorSettings | ApiSettings) -> dict[str, Any]:
    """What `serving_planner` is told of an installation: operator and API plan alike."""
    return {
        "engineImages": dict(settings.engine_images),
        "calibration": settings.calibration,
        "routers": sorted(settings.routers),
    }


def serving_planner(options: Mapping[str, Any]) -> ServingPlanner:
    """The planner of this installation. `options`: `engineImages`, `calibration` and `routers` as the
    operator is told. Raises
    Refused where the `serving` extra is not installed."""
    try:
        from tuner.serving.planner.installation import Installation  # noqa: PLC0415 - only the worker needs them
        from tuner.serving.planner.installed import InstalledPlanner  # noqa: PLC0415
    except ImportError as error:
        raise Refused(
            f"the planner cannot be loaded: {error}", hint="install trimtab[serving]", code="PlannerMissing"
        ) from error
    place = options.get("calibration")
    return InstalledPlanner(
        Installation(
            images=dict(options.get("engineImages", {})),
            routers=frozenset({"service", *options.get("routers", ())}),
            split_roles=frozenset(SPLITS.values()),
        ),
        None if place is None else Path(place),
    )


def training_planner(options: Mapping[str, Any]) -> TrainingPlanner:
    """The training planner. Raises Refused where what it needs is not installed."""
    del options
    try:
        from tuner.training.planner.desk import TrainingDesk  # noqa: PLC0415 - only the worker needs it
    except ImportError as error:
        raise Refused(
            f"the planner cannot be loaded: {error}", hint="install trimtab[serving]", code="PlannerMissing"
        ) from error
    return TrainingDesk()


class PlannerProcess:
    """Fulfils `PlanningDesk`. `planner` and `training`: `module:factory` of functions from options to a
    `ServingPlanner` and a `TrainingPlanner`."""

    def __init__(
        self,
        planner: str = PLANNER,
        options: Mapping[str, Any] | None = None,
        *,
        training: str = TRAINING_PLANNER,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        idle_s: float = _IDLE_S,
    ) -> None:
        self._planner, self._training, self._options = planner, training, dict(options or {})
        self._timeout_s, self._memory_bytes, self._idle_s = timeout_s, memory_bytes, idle_s
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None
        self.stopped = 0
        """Processes that had to be stopped."""

    async def plan(self, request: PlanRequest, *, progress: Progress | None = None) -> ServingPlan:
        """One answer; calls wait for each other. Raises what the planner raises; Refused with `PLANNER_DOWN`'s codes when
        it took too long or died. Cancelling ends the process."""
        return await self._answer("serving", request, ServingPlan, progress)

    async def plan_training(self, request: TrainingPlanRequest, *, progress: Progress | None = None) -> TrainingPlan:
        """The same for a training question."""
        return await self._answer("training", request, TrainingPlan, progress)

    async def close(self) -> None:
        """End the process; what it computes is lost."""
        if self._idle is not None:
            self._idle.cancel()
        await self._end()

    # ---- the process

    async def _answer(self, kind: str, request: Part, answers: type[P], progress: Progress | None) -> P:
        async with self._lock:
            self._stay()
            try:
                async with asyncio.timeout(self._timeout_s):
                    answer = await self._exchange(kind, request, progress)
                refusal = _error(answer["error"]) if "error" in answer else None
                if refusal is not None and refusal.reason in PLANNER_DOWN:
                    await self._end()  # it leaves, or cannot be trusted any more: the next question gets a new one
            except TimeoutError as error:
                await self._end()
                raise Refused(
                    f"planning took longer than {self._timeout_s:g} s and was stopped",
                    hint="allow fewer pools, engines or accelerators",
                    code="PlannerTimeout",
                ) from error
            except BaseException:
                await self._end()
                raise
            finally:
                self._leave_later()
        if refusal is not None:
            raise refusal
        try:
            return answers.model_validate(answer["plan"])
        except (KeyError, ValidationError) as error:
            raise Refused(f"the planner's answer cannot be read: {error}", code="PlannerDied") from error

    async def _exchange(self, kind: str, request: Part, progress: Progress | None) -> dict[str, Any]:
        process = await self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        asked = request.model_dump_json(by_alias=True, exclude_none=True)
        process.stdin.write(f"{kind} {asked}\n".encode())
        try:
            await process.stdin.drain()
            while True:
                line = await process.stdout.readline()
                if not line.endswith(b"\n"):
                    raise await self._died(process)
                said = json.loads(line)
                if "progress" not in said:
                    return dict(said)
                if progress is not None:
                    what, share = said["progress"]
                    progress(str(what), float(share))
        except (ConnectionError, ValueError) as error:
            raise await self._died(process) from error

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "controlplane.planner_worker",
            self._planner,
            self._training,
            json.dumps(self._options),
            str(self._memory_bytes),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES_MAX,
        )
        log.info("planner started as process %d", self._process.pid)
        return self._process

    async def _died(self, process: asyncio.subprocess.Process) -> Refused:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 1.0)
        code = process.returncode
        how = (
            "stopped answering" if code is None else f"ended with signal {-code}" if code < 0 else f"ended with {code}"
        )
        return Refused(
            f"the planner's process {how}; it is started again with the next request",
            hint="see the log; a signal 9 often means too little memory",
            code="PlannerDied",
        )

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        self.stopped += 1
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        # Shielded: whoever cancels us must not leave a process that nobody waits for.
        await asyncio.shield(process.wait())

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _leave_later(self) -> None:
        self._stay()
        self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._leave)

    def _leave(self) -> None:
        """Give the memory back: the worker ends when its input does."""
        process = self._process
        if process is not None and not self._lock.locked() and process.stdin is not None:
            self._process = None
            process.stdin.close()


def _error(said: Mapping[str, Any]) -> TrimtabError:
    kind = _ERRORS.get(str(said.get("class")), Refused)
    named = {key: said.get(key) for key in ("field", "value", "limit", "hint", "code")}
    return kind(str(said.get("message")), **named)


class PlannerPool:
    """Several `PlannerProcess`es behind one door, so that a long question does not hold up a short one."""

    def __init__(self, processes: list[PlannerProcess]) -> None:
        self._processes = processes
        self._idle: asyncio.LifoQueue[PlannerProcess] = asyncio.LifoQueue()  # the one used last is warm
        for process in processes:
            self._idle.put_nowait(process)

    async def plan(self, request: PlanRequest, *, progress: Progress | None = None) -> ServingPlan:
        """See `PlannerProcess.plan`; waits for a process that has nothing to do."""
        process = await self._idle.get()
        try:
            return await process.plan(request, progress=progress)
        finally:
            self._idle.put_nowait(process)

    async def plan_training(self, request: TrainingPlanRequest, *, progress: Progress | None = None) -> TrainingPlan:
        """See `PlannerProcess.plan_training`; waits for a process that has nothing to do."""
        process = await self._idle.get()
        try:
            return await process.plan_training(request, progress=progress)
        finally:
            self._idle.put_nowait(process)

    async def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            await process.close()
