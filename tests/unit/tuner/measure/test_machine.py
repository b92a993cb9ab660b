"""What is known of the machine beside the engine."""

from __future__ import annotations

import time

from tuner.measure.machine import Others, busy_s, fingerprint


def test_what_others_take_leaves_out_what_is_ours() -> None:
    others = Others(time.process_time)
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        pass
    share = others.share_pct()
    assert share is not None and share >= 0.0
    # Seconds of ours that no counter holds any more (a load process that has ended) are taken off as well.
    less = others.share_pct(more_own_s=1e6)
    assert less == 0.0


def test_the_counter_of_the_machine_only_grows() -> None:
    before, after = busy_s(), busy_s()
    assert before is not None and after is not None and after >= before


def test_fingerprints_name_hardware_and_not_the_host() -> None:
    import platform

    plain = fingerprint()
    assert "CPUs" in plain and "GiB" in plain
    assert platform.node() == "" or platform.node() not in plain
    assert fingerprint(["GPU-2", "GPU-1"]) == fingerprint(["GPU-1", "GPU-2"]) != plain
    assert len(fingerprint(["x" * 100] * 50)) <= 256
