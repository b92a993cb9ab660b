"""How the loop of tuning jobs is kept going: one job to its end on this machine, or all of them as a process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from controlplane.loops.tuning import TuningDriver
from controlplane.model.errors import Refused, TrimtabError
from controlplane.model.ports import STORE_DOWN
from tuner.embedded import LocalQueue

log = logging.getLogger(__name__)

SWEEP_S = 5.0


def run_job(
    driver: TuningDriver,
    queue: LocalQueue,
    job: str,
    *,
    until: Callable[[], bool] = lambda: False,
    sweep_s: float = 1.0,
) -> None:
    """Bring a job to its end, or until `until` says so, and no other. Trials that an earlier process left behind are
    taken up when their leases have run out."""
    swept = -sweep_s
    while not until():
        if time.monotonic() - swept >= sweep_s:
            driver.sweep(only=job)
            swept = time.monotonic()
        if not driver.step(job):
            return
        queue.wait(sweep_s)


class DriverProcess:
    """Steps jobs as messages name them, and sweeps from a timer: messages may be lost."""

    def __init__(self, driver: TuningDriver, *, sweep_s: float = SWEEP_S) -> None:
        self._driver = driver
        self._sweep_s = sweep_s
        self._one = threading.Lock()
        self._over = threading.Event()
        self._timer = threading.Thread(target=self._sweeps, name="sweep", daemon=True)
        self.swept_s = time.monotonic()
        """When the last sweep ended, well or not, on the monotonic clock."""

    def start(self) -> None:
        self._timer.start()

    def close(self) -> None:
        self._over.set()
        self._timer.join()

    def step(self, job: str) -> None:
        """What a message asks for."""
        with self._one:
            self._driver.step(job)

    def _sweeps(self) -> None:
        while True:
            try:
                with self._one:
                    self._driver.sweep()
            except TrimtabError as error:
                away = isinstance(error, Refused) and error.reason in STORE_DOWN
                log.log(logging.WARNING if away else logging.ERROR, "sweep: %s", error)
            except Exception:
                log.exception("the sweep failed; it is tried again")
            self.swept_s = time.monotonic()
            if self._over.wait(self._sweep_s):
                return
