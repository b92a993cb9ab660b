"""Trials on this machine without any broker: a queue in memory and as many threads as trials may run at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

log = logging.getLogger(__name__)


class LocalQueue:
    """Fulfils `TrialQueue`. `work` is called with each trial in a thread; an id that is already queued or under way is
    not queued again."""

    def __init__(self, work: Callable[[str], object], *, parallel: int) -> None:
        self._work = work
        self._pool = ThreadPoolExecutor(parallel, thread_name_prefix="trial")
        self._under_way: set[str] = set()
        self._lock = threading.Lock()
        self._changed = threading.Event()

    def trial(self, trial: str) -> None:
        with self._lock:
            if trial in self._under_way:
                return
            self._under_way.add(trial)
        self._pool.submit(self._run, trial)

    def job(self, job: str) -> None:
        self._changed.set()

    def wait(self, seconds: float) -> None:
        """Until something has changed, or this long."""
        self._changed.wait(seconds)
        self._changed.clear()

    def close(self) -> None:
        """Start nothing more, wait for what is under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, trial: str) -> None:
        try:
            self._work(trial)
        except Exception:
            # The trial keeps its lease until it runs out, and is then given out again: nothing else is to be done here.
            log.exception("trial %s could not be worked on", trial)
        finally:
            with self._lock:
                self._under_way.discard(trial)
            self._changed.set()
