"""A job's events as the API streams them, read in a thread: whoever follows takes what has come."""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

from pydantic import ValidationError

from controlplane.cli.tune_http import PASSING, Http
from controlplane.model.errors import Refused, TrimtabError
from controlplane.model.tuning_records import TuningEvent

_LINE_BYTES_MAX = 2**20
_WAITS_S = (1.0, 2.0, 5.0)  # before it is tried again; the last one ever after


class EventStream:
    """Events of one job after `last`. A lost connection is made again after the last event that came; `trouble` says
    why it is gone meanwhile. `ended`: the API will send no more."""

    def __init__(self, http: Http, job: str, last: int) -> None:
        self._http, self._job, self._last = http, job, last
        self._come: queue.SimpleQueue[TuningEvent] = queue.SimpleQueue()
        self._refusal: TrimtabError | None = None
        self.ended = False
        self.trouble: str | None = None
        threading.Thread(target=self._read, name="events", daemon=True).start()

    def take(self, wait_s: float) -> list[TuningEvent]:
        """What has come since, at the latest after `wait_s`. Raises what the API refuses for good."""
        out: list[TuningEvent] = []
        with contextlib.suppress(queue.Empty):
            out.append(self._come.get(timeout=wait_s) if wait_s > 0 else self._come.get_nowait())
            while True:
                out.append(self._come.get_nowait())
        if not out and self._refusal is not None:
            raise self._refusal
        return out

    def _read(self) -> None:
        failed = 0
        while True:
            try:
                path = f"/v1/tuning-jobs/{self._job}/events"
                with self._http.open("GET", path, headers={"Last-Event-ID": str(self._last)}) as answer:
                    self.trouble = None
                    for kind, data in _frames(answer):
                        failed = 0
                        if kind == "end":
                            self._over(data)
                            return
                        event = TuningEvent.model_validate_json(data)
                        self._last = event.id
                        self._come.put(event)
                self.trouble = "the stream ended"
            except ValidationError:
                self._refusal = Refused("an event cannot be read: is the API of another version?", field="--server")
                return
            except TrimtabError as error:
                if error.reason not in PASSING:
                    self._refusal = error
                    return
                self.trouble = str(error)
            # Cut within a chunk; ValueError: the answer was closed under the reader.
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.trouble = str(error) or type(error).__name__
            time.sleep(_WAITS_S[min(failed, len(_WAITS_S) - 1)])
            failed += 1

    def _over(self, data: str) -> None:
        found: Any = json.loads(data)
        reason = str(found.get("reason")) if isinstance(found, dict) else "it ended"
        if reason != "JobEnded":
            words = {"TokenEnded": "the token has run out", "Forbidden": "you may no longer see the job"}
            self._refusal = Refused(f"{words.get(reason, reason)}; the job goes on", field="TRIMTAB_TOKEN", code=reason)
        self.ended = True


def _frames(answer: IO[bytes]) -> Iterator[tuple[str, str]]:
    """Name and data of each event; comments and fields that say nothing here are left out."""
    kind, data = "message", ""
    while line := answer.readline(_LINE_BYTES_MAX):
        text = line.decode(errors="replace").rstrip("\r\n")
        if not text:
            if data:
                yield kind, data
            kind, data = "message", ""
        name, _, value = text.partition(":")
        if name == "event":
            kind = value.strip()
        elif name == "data":
            data += value.removeprefix(" ")
