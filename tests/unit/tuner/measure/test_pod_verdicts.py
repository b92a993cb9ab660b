"""What a pod's end says about its configuration, and what it does not."""

from __future__ import annotations

import pytest

from controlplane.model.tuning import Verdict
from controlplane.model.tuning_pods import PodSeen
from tuner.measure.engine.classify import verdict_of
from tuner.measure.engine.pod import ended_of

LOG = ("loading", "RuntimeError: no such option")


@pytest.mark.parametrize(
    "seen",
    [
        PodSeen("pending"),
        PodSeen("pending", reason="Unschedulable", message="0/3 nodes are available"),
        PodSeen("pending", scheduled=True, reason="ContainerCreating"),
        PodSeen("pending", scheduled=True, reason="ErrImagePull", message="timeout"),  # the kubelet tries again
        PodSeen("running", scheduled=True, ready=True, address="10.0.0.1"),
    ],
)
def test_it_may_still_do_what_it_was_made_for(seen: PodSeen) -> None:
    assert ended_of(seen, LOG) is None


@pytest.mark.parametrize(
    ("seen", "verdict", "words"),
    [
        # about the configuration
        (PodSeen("failed", reason="OOMKilled", exit_code=137), Verdict.INFEASIBLE, "for memory"),
        (PodSeen("failed", reason="Error", exit_code=1), Verdict.INFEASIBLE, "status 1"),
        (PodSeen("failed", reason="Error", exit_code=139), Verdict.INFEASIBLE, "SIGSEGV"),
        (PodSeen("succeeded", reason="Completed", exit_code=0), Verdict.INFEASIBLE, "status 0"),
        (PodSeen("running", reason="Error", exit_code=1), Verdict.INFEASIBLE, "status 1"),  # a sidecar runs on
        # about what is around it
        (PodSeen("gone"), Verdict.INFRASTRUCTURE, "was deleted"),
        (PodSeen("running", deleting=True), Verdict.INFRASTRUCTURE, "being deleted"),
        (PodSeen("failed", deleting=True, reason="Error", exit_code=143), Verdict.INFRASTRUCTURE, "being deleted"),
        (PodSeen("failed", reason="Error", exit_code=137), Verdict.INFRASTRUCTURE, "not for memory"),
        (PodSeen("failed", reason="Error", exit_code=143), Verdict.INFRASTRUCTURE, "SIGTERM"),
        (PodSeen("failed", reason="Evicted", message="low on ephemeral-storage"), Verdict.INFRASTRUCTURE, "low on"),
        (PodSeen("failed", reason="NodeLost"), Verdict.INFRASTRUCTURE, "NodeLost"),
        (PodSeen("failed", reason="UnexpectedAdmissionError"), Verdict.INFRASTRUCTURE, "UnexpectedAdmissionError"),
        (PodSeen("failed", reason="DeadlineExceeded", exit_code=137), Verdict.INFRASTRUCTURE, "DeadlineExceeded"),
        (PodSeen("failed"), Verdict.INFRASTRUCTURE, "its pod failed"),
        (PodSeen("failed", reason="ContainerStatusUnknown", exit_code=137), Verdict.INFRASTRUCTURE, "could not be"),
        (PodSeen("failed", reason="StartError", message="exec: no such file", exit_code=128), Verdict.INFRASTRUCTURE, "exec: no"),
        (PodSeen("pending", reason="ImagePullBackOff", message="not found"), Verdict.INFRASTRUCTURE, "ImagePullBackOff"),
        (PodSeen("pending", reason="CreateContainerConfigError", message="no secret"), Verdict.INFRASTRUCTURE, "no secret"),
    ],
)  # fmt: skip
def test_whom_an_end_speaks_of(seen: PodSeen, verdict: Verdict, words: str) -> None:
    ended = ended_of(seen, LOG)
    assert ended is not None
    found, reason = verdict_of(ended, when="under load")
    assert found is verdict, reason
    assert words in reason and "no such option" in reason  # the log's last lines are always there


def test_words_of_memory_in_the_log_count() -> None:
    ended = ended_of(PodSeen("failed", reason="Error", exit_code=1), ["torch.OutOfMemoryError: CUDA out of memory"])
    assert ended is not None
    assert verdict_of(ended, when="at start") == (
        Verdict.INFEASIBLE, "the engine ran out of memory (exit status 1) at start\ntorch.OutOfMemoryError: CUDA out of memory",
    )  # fmt: skip
