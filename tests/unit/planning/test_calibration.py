"""The calibration of a running installation: noticed when it changes, told, planned with from the next question on."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from controlplane.calibration import CalibrationWatch
from controlplane.model.auto import Traffic
from controlplane.model.plans import Lengths, PlannablePool, PlanRequest
from controlplane.planning import PlannerProcess, planner_options
from controlplane.settings import OperatorSettings, api_settings, operator_settings
from tuner.serving.calibration.parameters import Effect, digest_of, dump_calibration, load_calibration

SHIPPED = load_calibration()
SLOW = SHIPPED.model_copy(
    update={
        "name": "measured here",
        "effects": [*SHIPPED.effects, Effect(when={"engine": "vllm"}, knob="request_ms", value=100.0, rows=9)],
    }
)
REQUEST = PlanRequest(
    model="llama-3.1-8b",
    workload=Traffic(rate_per_second=1, input=Lengths(tokens=512), output=Lengths(tokens=32)),
    pools=[PlannablePool(name="a", accelerator="a10g", free=1)],
    allowed={"engines": ["vllm"]},
    top=1,
)


def put(folder: Path, text: str | None) -> None:
    """As a kubelet does: a new folder, and one link that moves over to it."""
    new = folder / f"..{os.urandom(4).hex()}"
    new.mkdir(parents=True)
    if text is not None:
        (new / "calibration.json").write_text(text)
    link = folder / "..next"
    link.symlink_to(new.name)
    link.replace(folder / "..data")
    file = folder / "calibration.json"
    if text is None:
        file.unlink(missing_ok=True)
    elif not file.is_symlink():
        file.symlink_to("..data/calibration.json")


async def test_the_watch_tells_of_changes_and_only_of_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    told: list[int] = []
    watch = CalibrationWatch(str(tmp_path))
    watch.subscribe(lambda: told.append(1))
    assert watch.used is None

    async def look(expected: int) -> tuple[str, bool]:
        await watch.look()
        assert len(told) == expected
        assert watch.used is not None
        return watch.used.source, watch.used.problem is not None

    assert await look(1) == ("shipped", False)
    assert await look(1) == ("shipped", False)
    put(tmp_path, dump_calibration(SLOW))
    assert await look(2) == ("installed", False)
    assert f"installed calibration measured here ({digest_of(SLOW)})" in caplog.text
    put(tmp_path, SLOW.model_dump_json())  # says the same
    assert await look(2) == ("installed", False)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    put(tmp_path, dump_calibration(SLOW).replace('"knob": "', '"knob": "x', 1))
    assert await look(3) == ("shipped", True)
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "effects.0.knob" in warning.getMessage()
    put(tmp_path, None)
    assert await look(4) == ("shipped", False)


async def test_the_watch_looks_by_itself(tmp_path: Path) -> None:
    watch = CalibrationWatch(str(tmp_path))
    changed = asyncio.Event()
    watch.subscribe(changed.set)
    task = asyncio.create_task(watch.run(every_s=0.01))
    await asyncio.wait_for(changed.wait(), 30)
    changed.clear()
    put(tmp_path, dump_calibration(SLOW))
    await asyncio.wait_for(changed.wait(), 30)
    assert watch.used is not None
    assert watch.used.name == "measured here"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_metrics(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    watch = CalibrationWatch(str(tmp_path))
    registry.register(watch)

    def value(metric: str, labels: dict[str, str] | None = None) -> float | None:
        return registry.get_sample_value(metric, labels)

    assert value("trimtab_planner_calibration_unusable") is None  # not looked yet: a gap, not 0
    put(tmp_path, dump_calibration(SLOW))
    await watch.look()
    labels = {"name": "measured here", "digest": digest_of(SLOW), "source": "installed"}
    assert value("trimtab_planner_calibration_info", labels) == 1
    assert value("trimtab_planner_calibration_unusable") == 0
    put(tmp_path, "{")
    await watch.look()
    assert value("trimtab_planner_calibration_unusable") == 1


@pytest.mark.parametrize("read", [operator_settings, api_settings])
def test_both_processes_are_told_alike(read: Callable[[dict[str, str]], OperatorSettings]) -> None:
    assert planner_options(read({}))["calibration"] is None
    assert planner_options(read({"TRIMTAB_CALIBRATION": ""}))["calibration"] is None
    assert planner_options(read({"TRIMTAB_CALIBRATION": "/etc/x"}))["calibration"] == "/etc/x"


async def test_the_planner_process_plans_with_what_is_installed_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "calibration"
    planner = PlannerProcess(options=planner_options(OperatorSettings(calibration=str(folder))))
    ttft_ms: list[float] = []

    async def ask() -> tuple[str, str]:
        plan = await planner.plan(REQUEST)
        prediction = plan.best[0].prediction
        assert prediction is not None
        assert prediction.ttft_ms.mean is not None
        assert plan.calibration is not None
        ttft_ms.append(prediction.ttft_ms.mean)
        return plan.calibration.source, plan.calibration.digest

    try:
        assert await ask() == ("shipped", digest_of(SHIPPED))
        put(folder, dump_calibration(SLOW))
        assert await ask() == ("installed", digest_of(SLOW))
        put(folder, "{")
        assert await ask() == ("shipped", digest_of(SHIPPED))
        process = planner._process
        put(folder, None)
        assert await ask() == ("shipped", digest_of(SHIPPED))
        assert planner._process is process, "a broken file ends no process"
    finally:
        await planner.close()
    assert ttft_ms[1] == pytest.approx(ttft_ms[0] + 100, rel=0.02)
    assert ttft_ms[0] == ttft_ms[2] == ttft_ms[3]
