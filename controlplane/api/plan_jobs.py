"""Planning jobs: a bounded store in memory. A job belongs to whoever asked, and to this replica of the API."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from controlplane.api.auth import Identity
from controlplane.api.plan_documents import JobState, PlanJobOut
from controlplane.api.problem import Problem
from controlplane.model.errors import TrimtabError
from controlplane.model.plans import PlanRequest, ServingPlan
from controlplane.model.ports import PLANNER_DOWN
from controlplane.model.training_plans import TrainingPlan, TrainingPlanRequest
from controlplane.model.training_ports import PlanningDesk

# Per person: questions under way, and answers kept. A long answer is some 100 KB.
OPEN_MAX = 4
KEPT_MAX = 16
# Of everybody together.
ALL_OPEN_MAX = 64
ALL_KEPT_MAX = 512


@dataclass(slots=True, eq=False)
class PlanJob:
    """One question. `changed` is replaced at every change, so that readers can wait for the next."""

    id: str
    owner: tuple[str, str]
    request: PlanRequest | TrainingPlanRequest
    created: datetime
    state: JobState = "queued"
    doing: str = ""
    share: float = 0.0
    plan: ServingPlan | None = None
    training: TrainingPlan | None = None
    error: TrimtabError | None = None
    task: asyncio.Task[None] | None = None
    gone: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def open(self) -> bool:
        return self.state in ("queued", "running")

    def news(self) -> None:
        """Wake who waits."""
        self.changed.set()
        self.changed = asyncio.Event()

    def out(self, instance: str, *, answer: bool = True) -> PlanJobOut:
        """The job as a document."""
        problem = None if self.error is None else problem_of(self.error).document(instance)
        return PlanJobOut.model_validate(
            {
                "kind": "training" if isinstance(self.request, TrainingPlanRequest) else "serving",
                "id": self.id,
                "state": self.state,
                "model": self.request.model,
                "created": self.created,
                "doing": self.doing,
                "share": self.share,
                "plan": self.plan if answer else None,
                "training": self.training if answer else None,
                "problem": problem,
            }
        )


class PlanJobs:
    """All jobs of this process."""

    def __init__(self, service: PlanningDesk, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._service = service
        self._now = now
        self._jobs: dict[str, PlanJob] = {}  # in the order of their creation

    def start(self, identity: Identity, request: PlanRequest | TrainingPlanRequest) -> PlanJob:
        """Begin. Raises Problem 429 when the caller, or everybody, has too many questions open."""
        owner = _owner(identity)
        opened = [job for job in self._jobs.values() if job.open]
        if sum(job.owner == owner for job in opened) >= OPEN_MAX or len(opened) >= ALL_OPEN_MAX:
            problem = Problem(
                429,
                "TooManyPlans",
                f"Too many plans are under way; allowed: {OPEN_MAX} of yours, {ALL_OPEN_MAX} of everybody.",
                hint="Wait for one, or cancel it: DELETE /v1/plans/{id}.",
            )
            problem.headers["Retry-After"] = "5"
            raise problem
        job = PlanJob(secrets.token_hex(8), owner, request, self._now())
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._run(job), name=f"plan {job.id}")
        self._make_room(owner)
        return job

    def get(self, identity: Identity, job_id: str) -> PlanJob:
        """The caller's job. Raises Problem 404, also for those of others."""
        job = self._jobs.get(job_id)
        if job is None or job.owner != _owner(identity):
            raise Problem(
                404,
                "NotFound",
                f"There is no plan {job_id!r} of yours here.",
                hint="Plans are kept in memory by the replica that made them, the newest of each caller.",
            )
        return job

    def of(self, identity: Identity) -> list[PlanJob]:
        """The caller's jobs, newest first."""
        owner = _owner(identity)
        return [job for job in reversed(self._jobs.values()) if job.owner == owner]

    def remove(self, identity: Identity, job_id: str) -> None:
        """Cancel what is under way and forget it. Raises Problem 404."""
        self._drop(self.get(identity, job_id))

    async def follow(self, job: PlanJob, within_s: float) -> AsyncIterator[bool]:
        """True at every change and at the start, False when nothing happened for `within_s`; ends with the job."""
        while True:
            changed = job.changed
            yield True
            if not job.open or job.gone:
                return
            while not changed.is_set():
                try:
                    await asyncio.wait_for(changed.wait(), within_s)
                except TimeoutError:
                    yield False

    async def close(self) -> None:
        """End everything."""
        for job in list(self._jobs.values()):
            self._drop(job)
        await self._service.close()

    async def _run(self, job: PlanJob) -> None:
        def progress(doing: str, share: float) -> None:
            job.state, job.doing, job.share = "running", doing, round(share, 4)
            job.news()

        try:
            if isinstance(job.request, TrainingPlanRequest):
                job.training = await self._service.plan_training(job.request, progress=progress)
            else:
                job.plan = await self._service.plan(job.request, progress=progress)
        except TrimtabError as error:
            job.error = error
            job.state = "failed"
        except Exception as error:
            job.error = TrimtabError(f"the planner failed: {type(error).__name__}: {error}", code="PlannerDied")
            job.state = "failed"
        else:
            job.state, job.share = "done", 1.0
        finally:
            job.news()

    def _drop(self, job: PlanJob) -> None:
        self._jobs.pop(job.id, None)
        job.gone = True
        if job.task is not None:
            job.task.cancel()
        job.news()

    def _make_room(self, owner: tuple[str, str]) -> None:
        """Forget the oldest answers beyond the limits; never a question under way."""
        answered = [job for job in self._jobs.values() if not job.open]
        own = [job for job in answered if job.owner == owner]
        for job in own[: max(0, len(own) - KEPT_MAX)]:
            self._drop(job)
        for job in answered[: max(0, len(self._jobs) - ALL_KEPT_MAX)]:
            self._drop(job)


def problem_of(error: TrimtabError) -> Problem:
    """The problem that a failed plan is: the caller's to mend (422), or the planner's (503)."""
    extra = error.as_dict()
    code = extra.pop("code")
    extra.pop("message")
    if code not in PLANNER_DOWN and code != "PlannerMissing":
        return Problem(422, code, str(error), **extra)
    problem = Problem(503, code, str(error), **extra)
    problem.headers["Retry-After"] = "10"
    return problem


def _owner(identity: Identity) -> tuple[str, str]:
    return identity.user, identity.uid
