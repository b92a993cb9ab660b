"""A broker that dies while its worker has a message in hand: the worker notices, and works on what comes after."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis import Redis as Client

from tests.servers import Redis, ServerMissing, redis
from tuner.tasks import TRIALS, make_app

_PATIENCE_S = 90.0

# Says what it begins, and ends it when it is told to.
WORKER = """
import sys
from tuner.tasks import TRIALS, make_app, serve

def trial(name):
    print("began " + name, flush=True)
    if name == "first":
        sys.stdin.readline()

app = make_app(sys.argv[1], trial=trial)
serve(app, TRIALS, name="w")
"""


@pytest.fixture
def broker() -> Iterator[Redis]:
    try:
        with redis() as made:
            yield made
    except ServerMissing as missing:
        pytest.skip(str(missing))


@dataclass
class Said:
    """Lines of a worker so far."""

    lines: list[str] = field(default_factory=list)

    def wait(self, *words: str) -> None:
        """Until one of these was said."""
        until(lambda: any(word in line for line in list(self.lines) for word in words), lambda: "".join(self.lines))


def until(true: Callable[[], bool], said: Callable[[], str] = str) -> None:
    ends_s = time.monotonic() + _PATIENCE_S
    while not true():
        assert time.monotonic() < ends_s, said()
        time.sleep(0.05)


def send(broker: Redis, name: str) -> None:
    make_app(broker.url).send_task(TRIALS, args=[name], queue=TRIALS, retry=False)


def taken_but_not_begun(broker: Redis) -> bool:
    """The second message has left its queue, and nobody has acknowledged it."""
    with Client(host="127.0.0.1", port=broker.port) as client:
        return bool(client.llen(TRIALS) == 0 and client.hlen("unacked") == 1)


def test_a_worker_with_a_message_in_hand_outlives_its_broker(broker: Redis) -> None:
    """Nothing here depends on how long anything takes, but for how long is waited before it is called a failure. Fails
    without the subscription for remote commands: the worker then never asks for the third message."""
    send(broker, "first")
    send(broker, "second")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    command = [sys.executable, "-c", WORKER, broker.url]
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        out, said = worker.stdout, Said()
        reader = threading.Thread(target=lambda: said.lines.extend(out))
        reader.start()
        try:
            said.wait("began first")
            until(lambda: taken_but_not_begun(broker))
            broker.kill()
            worker.stdin.write("\n")
            worker.stdin.flush()
            # It is acknowledged to nobody, whichever of the two the worker finds out first.
            said.wait("Couldn't ack", "Connection to broker lost")
            said.wait("began second")
            broker.forget()
            broker.start()
            send(broker, "third")
            said.wait("began third")
        finally:
            worker.kill()
            worker.wait()
            reader.join()
