"""The engine process: one loop that takes requests off the socket, steps the engine and sends what each step made.

It is a process of its own because `step()` holds Python's global lock for its whole duration, and because a crash of
native code must not take the server down. It ends when its socket closes, and the kernel ends it when its parent dies.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
from typing import Final

from trimtab_engine import wire
from trimtab_engine.engine import Engine
from trimtab_engine.options import EngineOptions

_PR_SET_PDEATHSIG: Final = 1


def run(link: socket.socket, options: EngineOptions) -> None:
    """Load, report READY, then serve until the socket closes."""
    try:
        engine = Engine(options)
        engine.warm_up()
    except (RuntimeError, ValueError) as error:
        reason = [line.strip() for line in str(error).splitlines() if line.strip()]
        sys.exit("\n".join(["cannot load the model:", *reason]))
    gc.collect()
    gc.freeze()  # the loaded modules never become garbage; the collector need not look at them again
    link.sendall(wire.frame(wire.READY, json.dumps(engine.facts()).encode()))
    reader = wire.FrameReader()
    poller = select.poll()
    poller.register(link, select.POLLIN)
    while True:
        refused: list[wire.Event] = []
        if poller.poll(0 if engine.busy else None):
            data = link.recv(1 << 20)
            if not data:
                return
            for kind, payload in reader.feed(data):
                if kind == wire.SUBMIT:
                    event = engine.submit(wire.decode_submit(payload))
                    if event is not None:
                        refused.append(event)
                elif kind == wire.CANCEL:
                    engine.cancel(wire.decode_cancel(payload))
        if engine.busy:
            step = engine.step()
            step.events.extend(refused)
        elif refused:
            step = wire.Step(0, 0.0, 0, refused)
        else:
            continue
        link.sendall(wire.encode_step(step))


def _die_with_parent(parent_pid: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the line above took effect
        sys.exit(1)


def main(argv: list[str]) -> int:
    """Arguments: socket file descriptor, pid of the parent, engine options as JSON."""
    _die_with_parent(int(argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()
    link = socket.socket(fileno=int(argv[0]))
    try:
        run(link, EngineOptions.from_json(argv[2]))
    except (BrokenPipeError, ConnectionResetError):
        return 1
    # Skip interpreter teardown: freeing a gigabyte of KV cache page by page only delays a restart.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
