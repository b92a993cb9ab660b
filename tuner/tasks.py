"""The Celery app: messages that carry an id and may be lost, repeated, late or out of order.

A message is a hint that work waits in the store. It is acknowledged before it is worked on, so a broker that redelivers
after a time-out, or forgets everything, has no say in whether a trial is measured: leases decide, and the driver sends
ids again while trials wait.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Final, Literal

from celery import Celery, signals
from kombu.exceptions import KombuError

log = logging.getLogger(__name__)

TRIALS: Final = "trimtab.trials"
JOBS: Final = "trimtab.jobs"
# Longer than a driver or a worker ever holds a message it has not begun: early acknowledgement makes it short.
_VISIBILITY_TIMEOUT_S = 3600
# A broker that is away must not hold up a trial's end: the message is given up, the driver's sweep stands in for it.
_BROKER_TIMEOUT_S = 3.0


def make_app(
    broker: str, *, trial: Callable[[str], object] | None = None, job: Callable[[str], object] | None = None
) -> Celery:
    """`trial` and `job` are what a message makes a worker do; absent in processes that only send."""
    app = Celery("trimtab", broker=broker, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        # The subscription for remote commands is what notices that the broker died: a worker that holds a message asks for
        # no other, its acknowledgement fails unheard, and it would ask for none ever after.
        worker_enable_remote_control=True,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": _VISIBILITY_TIMEOUT_S,
            "socket_timeout": _BROKER_TIMEOUT_S,
            "socket_connect_timeout": _BROKER_TIMEOUT_S,
            "retry_on_timeout": False,
            "max_retries": 0,
        },
    )
    if trial is not None:
        app.task(name=TRIALS)(_guarded(trial))
    if job is not None:
        app.task(name=JOBS)(_guarded(job))
    return app


class CeleryQueue:
    """Fulfils `TrialQueue`. What cannot be sent is dropped with a warning."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def trial(self, trial: str) -> None:
        self._send(TRIALS, trial)

    def job(self, job: str) -> None:
        self._send(JOBS, job)

    def _send(self, queue: str, what: str) -> None:
        try:
            self._app.send_task(queue, args=[what], queue=queue, retry=False)
        except (KombuError, OSError) as error:
            log.warning("no message for %s: %s", what, error)


def serve(
    app: Celery,
    queue: Literal["trimtab.trials", "trimtab.jobs"],
    *,
    name: str,
    parallel: int = 1,
    told_to_end: Callable[[], object] = lambda: None,
) -> None:
    """Work on messages of one queue until the process is told to end, which `told_to_end` hears of first. `parallel`
    threads: trials measure in processes of their own, and a pool of forks could not be the parent of those when it
    dies."""

    def ending(**_: object) -> None:
        told_to_end()

    signals.worker_shutting_down.connect(ending, weak=False)
    app.Worker(
        queues=[queue],
        hostname=f"{name}@{socket.gethostname()}",
        pool="threads" if queue == TRIALS else "solo",
        concurrency=parallel,
        loglevel="WARNING",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    ).start()


def _guarded(act: Callable[[str], object]) -> Callable[[object], None]:
    def task(what: object) -> None:
        # Anybody who reaches the broker can write into it.
        if not isinstance(what, str) or len(what) > 128:
            log.warning("a message that is no id was dropped")
            return
        try:
            act(what)
        except Exception:
            log.exception("%s could not be worked on; it is sent again while it waits", what)

    return task
