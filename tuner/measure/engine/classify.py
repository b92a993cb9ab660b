"""Whether an engine's end speaks about its configuration or about the machine. Pure."""

from __future__ import annotations

import re
import signal

from controlplane.model.tuning import Verdict
from tuner.measure.engine.process import Ended

REASON_LINES = 15

# Words of engines and libraries that ran out of memory with this configuration.
_MEMORY = re.compile(
    r"out of memory|outofmemory|std::bad_alloc|cannot allocate memory|memoryerror|no available memory for the cache"
    r"|larger than the maximum number of tokens that can be stored in kv cache|not enough memory|kv_cache_too_small"
    r"|less than desired gpu memory utilization|available kv cache memory",
    re.IGNORECASE,
)
# Words that say that something around the engine is broken: another configuration would fail as well.
_AROUND = re.compile(
    r"no space left on device|address already in use|modulenotfounderror|importerror|cannot open shared object file"
    r"|no such file or directory|permission denied|read-only file system|name or service not known"
    r"|temporary failure in name resolution|connection refused|too many open files|cuda driver version"
    r"|no cuda-capable device|nvml|uncorrectable ecc",
    re.IGNORECASE,
)
_ENDED_BY_OTHERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def verdict_of(ended: Ended, *, when: str) -> tuple[Verdict, str]:
    """`when`: `at start`, `under load`. Of an end that nobody asked for."""
    tail = [line for line in ended.log if line.strip()][-REASON_LINES:]
    text = "\n".join(ended.log)
    verdict, what = _judge(ended, text)
    return verdict, "\n".join([f"the engine {what} {when}", *tail])[:4000]


def _judge(ended: Ended, text: str) -> tuple[Verdict, str]:
    code = ended.exit_code
    if ended.around:
        return Verdict.INFRASTRUCTURE, f"was ended from outside: {ended.around},"
    if code is None:
        return Verdict.INFRASTRUCTURE, f"could not be started ({ended.failed})"
    if ended.memory_killed:
        return Verdict.INFEASIBLE, "was killed for memory by the kernel"
    if _MEMORY.search(text):
        return Verdict.INFEASIBLE, f"ran out of memory (exit status {code})"
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        if ended.memory_killed is None:
            return Verdict.INFEASIBLE, "was killed, most likely for memory (the kernel's count cannot be read here)"
        return Verdict.INFRASTRUCTURE, "was killed by somebody, not for memory"
    if -code in _ENDED_BY_OTHERS:
        return Verdict.INFRASTRUCTURE, f"was told to end by somebody ({signal.Signals(-code).name})"
    if _AROUND.search(text):
        return Verdict.INFRASTRUCTURE, f"ended for something around it (exit status {code})"
    how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with status {code}"
    return Verdict.INFEASIBLE, how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
