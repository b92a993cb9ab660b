"""Jobs of a Trimtab API, with the caller's token: fulfils `JobPlace`. Who may do what is the API's to say."""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from controlplane.cli.tune_events import EventStream
from controlplane.cli.tune_http import NO_ANSWER, Http
from controlplane.cli.tune_place import JOBS_MAX, Order
from controlplane.model.errors import Refused, TrimtabError, UnknownName
from controlplane.model.resource import Part
from controlplane.model.tuning import JobState, TrialState
from controlplane.model.tuning_apply import Applied
from controlplane.model.tuning_check import SpaceCheck
from controlplane.model.tuning_decision import TuningDecision
from controlplane.model.tuning_job import TuningSpec
from controlplane.model.tuning_pages import TrialList, TrialOut, TuningJobList
from controlplane.model.tuning_records import MeasuredAttempt, TrialRecord, TuningEvent, TuningJobRecord
from controlplane.tuning_names import job_among

_PATH = "/v1/tuning-jobs"
_ID = re.compile(r"[0-9a-z-]{1,63}")
_BUNDLE_BYTES_MAX = 2**30
_TRIES = 3
P = TypeVar("P", bound=Part)


class ServerJobs:
    """`namespace` None: a new job's is default, others are looked for wherever the caller may list."""

    remote = True

    def __init__(self, http: Http, namespace: str | None = None) -> None:
        self._http, self._namespace = http, namespace
        self.where = http.server if namespace is None else f"namespace {namespace} of {http.server}"
        self.options = f" --server {shlex.quote(http.server)}"
        if namespace is not None:
            self.options += f" -n {shlex.quote(namespace)}"
        self._streams: dict[str, EventStream] = {}

    def jobs(self, states: Sequence[JobState] = ()) -> list[TuningJobRecord]:
        return self._list({"state": [state.value for state in states]})

    def find(self, word: str) -> TuningJobRecord:
        if _ID.fullmatch(word):
            try:
                return self.get(word)
            except UnknownName:
                pass  # no id: a name
        found = self._list({"name": word}) if _ID.fullmatch(word) else []
        return self.get(job_among(word, found or self._list({}), self.where).id)

    def get(self, job: str) -> TuningJobRecord:
        return self._ask(TuningJobRecord, "GET", f"/{quote(job, safe='')}")

    def create(self, name: str, spec: TuningSpec) -> TuningJobRecord:
        body = self._new(name, spec)
        key = {"Idempotency-Key": secrets.token_hex(16)}
        for _ in range(_TRIES - 1):
            try:
                return self._ask(TuningJobRecord, "POST", "", body=body, headers=key)
            except Refused as refused:
                if refused.reason != NO_ANSWER:
                    raise
        return self._ask(TuningJobRecord, "POST", "", body=body, headers=key)

    def check(self, spec: TuningSpec) -> SpaceCheck:
        return self._ask(SpaceCheck, "POST", "/check", body=self._new("check", spec))

    def clone(self, job: str, name: str) -> TuningJobRecord:
        return self._ask(TuningJobRecord, "POST", f"/{job}/clones", body={"name": name})

    def pause(self, job: str) -> TuningJobRecord:
        return self._ask(TuningJobRecord, "POST", f"/{job}/pause")

    def resume(self, job: str) -> TuningJobRecord:
        return self._ask(TuningJobRecord, "POST", f"/{job}/resume")

    def cancel(self, job: str) -> TuningJobRecord:
        return self._ask(TuningJobRecord, "POST", f"/{job}/cancel")

    def extend(self, job: str, trials: int) -> TuningJobRecord:
        return self._ask(TuningJobRecord, "PUT", f"/{job}/budget", body={"trials": trials})

    def delete(self, job: str) -> None:
        self._http.call("DELETE", f"{_PATH}/{job}")

    def trials(
        self, job: str, *, states: Sequence[TrialState] = (), order: Order = "number", limit: int = 100, offset: int = 0
    ) -> list[TrialRecord]:
        query = {"state": [one.value for one in states], "sort": order, "limit": limit, "offset": offset}
        return self._ask(TrialList, "GET", f"/{job}/trials", query=query).items

    def trial(self, job: str, number: int) -> tuple[TrialRecord, list[MeasuredAttempt]]:
        found = self._ask(TrialOut, "GET", f"/{job}/trials/{number}")
        return found.trial, found.measured

    def decision(self, record: TuningJobRecord) -> TuningDecision:
        return self._ask(TuningDecision, "GET", f"/{record.id}/best")

    def report(self, record: TuningJobRecord) -> str:
        return self._http.call("GET", f"{_PATH}/{record.id}/report").decode()

    def bundle(self, record: TuningJobRecord) -> bytes:
        return self._http.call("GET", f"{_PATH}/{record.id}/bundle", most_bytes=_BUNDLE_BYTES_MAX)

    def happened(self, job: str, after: int, wait_s: float) -> tuple[list[TuningEvent], str | None]:
        stream = self._streams.get(job)
        if stream is None:
            stream = self._streams[job] = EventStream(self._http, job, after)
        return stream.take(wait_s), stream.trouble

    def applied(self, job: str, action: str, body: Mapping[str, Any]) -> Applied:
        """`action`: apply or undo, in a deployment that the API writes with the caller's token."""
        sent = {name: value for name, value in body.items() if value is not None}
        return self._ask(Applied, "POST", f"/{quote(job, safe='')}/{action}", body=sent)

    def _new(self, name: str, spec: TuningSpec) -> dict[str, Any]:
        # What nobody wrote is left to the API: its version may know other fields.
        written = spec.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return {"namespace": self._namespace or "default", "name": name, "spec": written}

    def _list(self, query: Mapping[str, object]) -> list[TuningJobRecord]:
        asked = {"namespace": self._namespace, "limit": JOBS_MAX, **query}
        try:
            return self._ask(TuningJobList, "GET", "", query=asked).items
        except TrimtabError as error:
            if error.reason == "Forbidden" and self._namespace is None:
                raise Refused(
                    error.message.removesuffix("."), hint="name a namespace with -n", code=error.reason
                ) from None
            raise

    def _ask(self, answer: type[P], method: str, path: str, **options: Any) -> P:
        body = self._http.call(method, _PATH + path, **options)
        try:
            return answer.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise Refused(
                f"its answer cannot be read ({place}: {first['msg']})", field="--server", value=self._http.server,
                hint="is it a Trimtab API of this version?",
            ) from None  # fmt: skip
