"""The HTML report of a training plan: well-formed, self-contained, every figure with units, everything escaped."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.unit.tuner.training_planner.questions import question
from tests.unit.tuner.training_planner.test_exports import case
from tuner.bars import gantt, stacked
from tuner.training.constants import shipped
from tuner.training.evaluate import times
from tuner.training.planner import Planner
from tuner.training.planner.asked import Asked
from tuner.training.planner.report import html_report
from tuner.training.timeline import picture

BIG = "layers=40,hidden=6144,heads=48,vocab=51200"
UNITS = re.compile(r", (s|GiB|[kM]J|USD|EUR)$|^(stage|rank of the plan)$")


@pytest.fixture(scope="module")
def page() -> str:
    asked = question(BIG, ("pp=4", "vpp=1,2"), gpus=64, batch=96, price_per_accelerator_hour=2.0)
    return html_report(Planner().plan(asked, top=4), shipped(), {"model": "<big> & slow", "--fix": ("pp=4", "vpp=1,2")})


def test_the_page_is_well_formed_and_brings_everything_with_it(page: str) -> None:
    root = ElementTree.fromstring(page)
    assert not re.search(r"""(src|href)\s*=|https?://|<script|@import|url\(""", page)
    assert "&lt;big&gt; &amp; slow" in page
    heads = [item.text for item in root.iter("h2")]
    for head in (
        "Memory",
        "Schedule",
        "Time, energy, cost",
        "Why not",
        "How to start it",
        "Where the numbers come from",
    ):
        assert head in heads


def test_energy_stands_with_what_it_may_be_off_by(page: str) -> None:
    found = re.search(r">([0-9.]+) \(([0-9.]+) to ([0-9.]+)\)<", page)
    assert found is not None
    middle, low, high = (float(text) for text in found.groups())
    assert low < middle < high


def test_every_axis_has_its_unit(page: str) -> None:
    axes = [item.text or "" for item in ElementTree.fromstring(page).iter("text") if item.get("class") == "axis"]
    assert len(axes) == 10
    assert all(UNITS.search(text) for text in axes), axes


def test_the_page_says_what_can_be_launched_and_what_cannot(page: str) -> None:
    assert "--pipeline-model-parallel-size 4" in page
    assert "torchtitan: framework" in page
    assert "basis" not in page
    assert "fitted" in page


def test_memory_is_drawn_for_every_stage_with_its_limit(page: str) -> None:
    figures = {item.get("aria-label"): item for item in ElementTree.fromstring(page).iter("svg")}
    memory = figures["Memory of the fullest rank"]
    limit = next(item for item in memory.iter("path") if item.get("class") == "limit")
    assert (limit.get("d") or "").count("M") == 4
    gantt_rows = [item.text for item in figures["Who does what"].iter("text") if item.get("class") == "tick"]
    assert {"0", "1", "2", "3"} <= set(gantt_rows)


def test_the_scatter_has_every_plan_that_was_kept() -> None:
    asked = question(BIG, ("pp=4",), gpus=64, batch=96)
    answer = Planner().plan(asked)
    figures = {
        item.get("aria-label"): item for item in ElementTree.fromstring(html_report(answer, shipped(), {})).iter("svg")
    }
    scatter = figures["Time against energy (a model)"]
    dots = next(item for item in scatter.iter("path") if "dots" in (item.get("class") or ""))
    assert (dots.get("d") or "").count("M") == answer.front_of
    assert answer.front_of > 3


def test_two_pools_have_their_own_limits_stages_and_nodes() -> None:
    pools = (
        {"name": "new", "gpu": "h100", "gpus": 16, "gpus_per_node": 8, "nic": "ndr", "nics_per_node": 8},
        {"name": "old", "gpu": "a100-sxm-40gb", "gpus": 16, "gpus_per_node": 8, "nic": "hdr", "nics_per_node": 8},
    )
    asked = Asked(model=BIG, pools=pools, seq=2048, global_batch=96)
    page = html_report(Planner().plan(asked.question()), shipped(), asked.shown())
    ElementTree.fromstring(page)
    for text in ("pool new", "h100-sxm-80gb: peak", "a100-sxm-40gb: peak", "ampere: gemm", "of the launch: pool old"):
        assert text in page


# ---- the schedule's picture


@pytest.mark.parametrize(
    "plan",
    [{"pp": 4, "dp": 16}, {"pp": 4, "vpp": 2, "dp": 16}, {"pp": 8, "dp": 8, "schedule": "gpipe"},
     {"pp": 8, "dp": 8, "schedule": "zb-h1"}, {"pp": 8, "dp": 8, "schedule": "zb-1p"}, {"dp": 64}],
)  # fmt: skip
def test_a_picture_takes_the_time_of_the_pipeline(plan: dict[str, Any]) -> None:
    asked = case(**plan)
    found = picture(asked, shipped())
    assert found is not None
    assert all(row for row in found.timeline.stages)
    if found.micro_batches == found.of:
        whole = float(times([asked], shipped()).seconds[0])
        assert 0.8 * whole < found.timeline.seconds < whole


def test_a_long_pipeline_is_drawn_in_part_and_a_huge_one_not() -> None:
    asked = case(pp=4, dp=16)
    long = replace(asked, plan=replace(asked.plan, global_batch=1 << 14))
    found = picture(long, shipped())
    assert found is not None
    assert (found.micro_batches, found.of) == (12, 1024)
    deep = case({"layers": 256, "hidden": 1024, "heads": 8, "vocab": 1024, "seq": 1024},
                {"gpu": "h100", "gpus": 256, "nic": "ndr"}, pp=256)  # fmt: skip
    assert picture(deep, shipped()) is None


def test_figures_without_data_say_so() -> None:
    assert "nothing to show" in stacked("t", "x", "y", [], {}, limit=None)
    assert "nothing to show" in gantt("t", "x", "y", [], {"a": []})


def test_a_part_has_its_colour_whatever_else_is_shown() -> None:
    one, none = np.ones(1), np.zeros(1)
    both = stacked("t", "x", "y", ["1"], {"first": one, "second": one}, limit=None)
    alone = stacked("t", "x", "y", ["1"], {"first": none, "second": one}, limit=None)
    assert '<span class="s1">second</span>' in both
    assert '<span class="s1">second</span>' in alone
    assert "s0" not in alone
    drawn = gantt("t", "time, s", "stage", ["0"], {"forward": [], "backward": [(0, 0.0, 1.0)]})
    assert '<span class="s1">backward</span>' in drawn


def test_the_total_of_memory_is_beside_its_stage(page: str) -> None:
    heads = [[cell.text for cell in row.findall("th")] for row in ElementTree.fromstring(page).iter("tr")]
    assert any(head[:2] == ["stage", "all, GiB"] for head in heads)
