"""Agreement where trials are pods: the configuration in use answers once per hardware, from a pod of the attempt's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from controlplane.model.errors import Refused
from controlplane.model.tuning import LeasedTrial, Outcome, Verdict
from controlplane.model.tuning_job import Measuring, TuningSpec
from controlplane.model.tuning_pods import PodSeen
from tests.unit.tuner.measure.test_agreement import SPACE
from tests.unit.tuner.measure.test_pods import LOOSE, Pod, engine, quick, spec
from tuner.measure import pod_reference
from tuner.measure.agreement import Answered, Decoder, as_text, from_text
from tuner.measure.pods import PodRunner
from tuner.work import longest_s

__all__ = ["quick"]


@dataclass
class Hardware(Pod):
    words: str = "16 CPUs"

    def hardware(self) -> str:
        return self.words


@dataclass
class Launcher:
    """Engines of two ports, on nodes that come one after the other; a pinned pod gets its node."""

    in_use: int
    trial: int
    nodes: list[str] = field(default_factory=lambda: ["n1"])
    hardware: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None
    pods: list[Hardware] = field(default_factory=list)
    told: list[tuple[bool, str | None, int]] = field(default_factory=list)
    """Whether it was the one in use, its node, and how many pods were there already."""

    def start(
        self, leased: LeasedTrial, spec: TuningSpec, *, in_use: bool = False, node: str | None = None
    ) -> Hardware:
        self.told.append((in_use, node, sum(not pod.ended for pod in self.pods)))
        if in_use and self.error is not None:
            raise self.error
        where = node or (self.nodes.pop(0) if len(self.nodes) > 1 else self.nodes[0])
        running = PodSeen("running", scheduled=True, ready=True, address="127.0.0.1", node=where)
        pod = Hardware([running], port=self.in_use if in_use else self.trial, words=self.hardware.get(where, "16 CPUs"))
        self.pods.append(pod)
        return pod

    def answering(self, leased: LeasedTrial, spec: TuningSpec) -> str:
        return "facts"


@dataclass
class Kept:
    rows: dict[tuple[str, str], str] = field(default_factory=dict)
    away: bool = False
    first: str | None = None
    """What another worker keeps meanwhile."""

    def found(self, answering: str) -> dict[str, str]:
        if self.away:
            raise Refused("away", code="StoreUnreachable")
        return {host: text for (name, host), text in self.rows.items() if name == answering}

    def keep(self, answering: str, hardware: str, text: str, *, now: datetime) -> str:
        if self.away:
            raise Refused("away", code="StoreUnreachable")
        return self.rows.setdefault((answering, hardware), self.first or text)


def changing() -> TuningSpec:
    body = spec(measuring=Measuring(requests=12, warm_up_requests=3, runs_max=1, timeout_s=60)).model_dump()
    return TuningSpec.model_validate(body | {"space": SPACE, "may_change_output": ["inferencePrecision"]})


@pytest.fixture
def start() -> Iterator[Callable[..., int]]:
    """The port of an engine with these flags."""
    with ExitStack() as stack:
        yield lambda *flags: stack.enter_context(engine("--interval", "0.001", "--ttft", "0.001", *flags))


@pytest.fixture
def ports(start: Callable[..., int]) -> tuple[int, int]:
    return start(), start("--inference-precision", "bf16")


def measure(launcher: Launcher, kept: Kept, *, attempt: int = 1, stop: threading.Event | None = None) -> Outcome:
    runner = PodRunner(launcher, lambda *_: None, kept, bands=LOOSE, again_s=0.01)
    leased = LeasedTrial(id="j/0", job="j", tenant="team", number=0, attempt=attempt, setting={}, seed=5)
    return runner.run(leased, changing(), stop=stop or threading.Event())


def share(outcome: Outcome) -> float:
    assert outcome.measurement is not None, outcome.reason
    return outcome.measurement.metrics["token_agreement"] or 0.0


def test_the_reference_is_decoded_once_before_the_trial_on_the_same_node(ports: tuple[int, int]) -> None:
    launcher, kept = Launcher(*ports), Kept()
    assert 0.8 < share(measure(launcher, kept)) < 0.97
    # One after the other: the node is the measurement's alone.
    assert launcher.told == [(True, None, 0), (False, "n1", 0)]
    assert all(pod.ended == 1 for pod in launcher.pods)
    ((_, host),) = kept.rows
    assert host == "16 CPUs" and from_text(kept.rows["facts", host]) is not None
    launcher.told.clear()
    assert share(measure(launcher, kept)) < 0.97 and launcher.told == [(False, None, 0)]


def test_other_hardware_has_a_reference_of_its_own(ports: tuple[int, int]) -> None:
    launcher, kept = Launcher(*ports, nodes=["n1", "n2"], hardware={"n2": "32 CPUs"}), Kept()
    measure(launcher, kept)
    launcher.told.clear()
    assert share(measure(launcher, kept)) < 0.97
    assert launcher.told == [(False, None, 0), (True, "n2", 0), (False, "n2", 0)]
    assert sorted(host for _, host in kept.rows) == ["16 CPUs", "32 CPUs"]
    assert all(pod.ended == 1 for pod in launcher.pods)


def test_of_two_workers_the_first_ones_reference_stands(ports: tuple[int, int]) -> None:
    in_use, other = ports
    said = Kept()
    measure(Launcher(other, other), said)  # what the trial's own engine answers
    kept = Kept(first=said.rows["facts", "16 CPUs"])
    assert share(measure(Launcher(in_use, other), kept)) == 1.0


def test_without_the_store_it_is_decoded_for_this_trial(ports: tuple[int, int]) -> None:
    assert share(measure(Launcher(*ports), Kept(away=True))) < 0.97


@pytest.mark.parametrize("text", ["", "[]", '[[["x"], [null]]]'])
def test_a_reference_that_cannot_be_read_is_decoded_again(ports: tuple[int, int], text: str) -> None:
    kept = Kept({("facts", "16 CPUs"): text})
    assert share(measure(Launcher(*ports), kept)) < 0.97


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_configuration_in_use_that_fails_is_not_the_trials_fault(start: Callable[..., int], attempt: int) -> None:
    launcher = Launcher(start("--refuse", "no such kernel"), start())
    outcome = measure(launcher, Kept(), attempt=attempt)
    assert outcome.verdict is Verdict.INFRASTRUCTURE and not outcome.waited
    assert outcome.reason.startswith("the configuration in use: ") and "no such kernel" in outcome.reason
    assert [pod.ended for pod in launcher.pods] == [1]  # the trial's own was not begun
    refused = Launcher(0, 0, error=Refused("the configuration in use: x", code="InvalidSpec"))
    assert measure(refused, Kept()).verdict is Verdict.INFRASTRUCTURE


def test_a_trial_that_fails_when_asked_is_infeasible(start: Callable[..., int]) -> None:
    launcher = Launcher(start(), start("--refuse", "no such kernel"))
    outcome = measure(launcher, Kept())
    assert outcome.verdict is Verdict.INFEASIBLE and "no such kernel" in outcome.reason
    assert [pod.ended for pod in launcher.pods] == [1, 1]


def test_a_pod_that_ends_while_it_answers(start: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Launcher(start("--die-after", "3"), start())

    def dies(*_: object) -> bool:
        launcher.pods[0].states = [PodSeen("failed", reason="OOMKilled", exit_code=137)]
        return False

    monkeypatch.setattr(pod_reference, "stopped_within", dies)  # it is seen a moment later
    outcome = measure(launcher, Kept())
    assert outcome.verdict is Verdict.INFRASTRUCTURE and "killed for memory" in outcome.reason
    assert [pod.ended for pod in launcher.pods] == [1]


def test_a_cancelled_job_ends_the_reference_too(ports: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    stop, decode, asked = threading.Event(), Decoder.decode, []

    def cancelled(self: Decoder, prompt: Sequence[int], tokens: int) -> Answered:
        asked.append(tokens)
        if len(asked) == 3:
            stop.set()
        return decode(self, prompt, tokens)

    monkeypatch.setattr(Decoder, "decode", cancelled)
    launcher = Launcher(*ports)
    assert measure(launcher, Kept(), stop=stop).verdict is Verdict.INFRASTRUCTURE
    assert len(asked) == 3 and [pod.ended for pod in launcher.pods] == [1]


def test_an_attempt_may_take_as_long_as_its_pods() -> None:
    assert longest_s(spec()) == 2 * 20 and longest_s(changing()) == 5 * 60


def test_as_text_and_back(ports: tuple[int, int]) -> None:
    kept = Kept()
    measure(Launcher(*ports), kept)
    (text,) = kept.rows.values()
    found = from_text(text)
    assert found is not None and as_text(found) == text and len(text) < 1 << 16
