"""A load process: `python -m tuner.measure.loadgen.worker`. One JSON job on standard input, `start SECONDS` (monotonic
clock) when everybody is ready, one JSON result on standard output. Where the job says so, a line about its first requests
comes before the result, and whatever is then said on standard input ends the sending. It ends with its parent."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys

from tuner.measure.loadgen.drive import Driver
from tuner.measure.loadgen.early import Early, as_line
from tuner.measure.loadgen.job import LoadJob, LoadResult

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> int:
    """Exit status 3 where the parent was gone before the first line."""
    parent = int(sys.argv[1])
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return 3
    driver = Driver(LoadJob.from_json(sys.stdin.readline()), early=_tell)
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection is a pause in every stamp; a run's garbage fits in memory
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    word, _, moment = sys.stdin.readline().partition(" ")
    if word != "start":
        return 3
    sys.stdout.write(asyncio.run(_run(driver, float(moment))).to_json() + "\n")
    sys.stdout.flush()
    return 0


async def _run(driver: Driver, start_s: float) -> LoadResult:
    loop, ear = asyncio.get_running_loop(), sys.stdin.fileno()

    def hear() -> None:
        loop.remove_reader(ear)
        if os.read(ear, 64):
            driver.enough()

    loop.add_reader(ear, hear)
    return await driver.run(start_s)


def _tell(early: list[Early]) -> None:
    sys.stdout.write(as_line(early))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
