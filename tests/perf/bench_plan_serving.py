"""CPU time of serving plans, imports included where a process is new.

dense: Llama 3.1 70B on 32 H200, every engine that runs there, percentiles of TTFT and TPOT promised. Empty cache: no
step table on disk, the replay's machine code as installed; cold: a new process beside a filled cache; warm: the second
plan of a process. moe: DeepSeek-V3 on 64 GPUs of three types, prefill/decode pairs allowed, a new process beside a
filled cache.
"""

import json
import os
import subprocess
import sys
import tempfile

from tests.perf.report import Emit, Figure, from_samples

RUNS = 5
_CODE = """
import json, sys, time
from controlplane.model.plans import PlanRequest
from tuner.serving.planner import Planner
request = PlanRequest.model_validate(json.loads(sys.argv[1]))
planner = Planner()
answer = planner.plan(request)
new = time.process_time()
again = planner.plan(request)
assert answer.best, [item.message for item in answer.why_not]
print(json.dumps({"new": new, "again": time.process_time() - new, "weighed": answer.weighed,
                  "replayed": answer.replayed, "best": answer.best[0].message}))
"""
_SLO = {"ttftMs": {"p95": 1000}, "tpotMs": {"p95": 50}}
DENSE = {
    "model": "llama-3.1-70b",
    "slo": _SLO,
    "workload": {
        "ratePerSecond": 8,
        "input": {"tokens": 1024, "rangeRatio": 0.8},
        "output": {"tokens": 256, "rangeRatio": 0.8},
    },
    "pools": [{"name": "h200", "accelerator": "h200-sxm-141gb", "free": 32}],
}
_NETWORK = {"nic": "ib-ndr-400", "nicsPerNode": 8}
MOE = {
    "model": "deepseek-v3",
    "slo": {"ttftMs": {"p95": 2000}, "tpotMs": {"p95": 60}},
    "workload": {
        "ratePerSecond": 10,
        "input": {"tokens": 2000, "rangeRatio": 0.8},
        "output": {"tokens": 500, "rangeRatio": 0.8},
    },
    "pools": [
        {"name": "h100", "accelerator": "h100-sxm-80gb", "free": 24, **_NETWORK},
        {"name": "h200", "accelerator": "h200-sxm-141gb", "free": 24, **_NETWORK},
        {"name": "b200", "accelerator": "b200-sxm-180gb", "free": 16, **_NETWORK},
    ],
    "allowed": {"disaggregated": True},
}


def run(emit: Emit) -> None:
    with tempfile.TemporaryDirectory() as code:
        _plan(DENSE, code)  # compiles the kernel where it was not at install
        empty = []
        for _ in range(3):
            with tempfile.TemporaryDirectory() as folder:
                empty.append(_plan(DENSE, folder)["new"])
        emit(from_samples("plan-serving", "dense_empty_cache_cpu_s", empty, "s", 6, "lower"))
        with tempfile.TemporaryDirectory() as folder:
            one_engine = {**DENSE, "allowed": {"engines": ["vllm"]}}
            alone = _plan(one_engine, folder)["new"]
        emit(Figure("plan-serving", "dense_one_engine_empty_cache_cpu_s", alone, "s", None, "lower", 1))
        runs = [_plan(DENSE, code) for _ in range(RUNS)]
        emit(from_samples("plan-serving", "dense_cold_cpu_s", [one["new"] for one in runs], "s", 1.5, "lower"))
        emit(from_samples("plan-serving", "dense_warm_cpu_s", [one["again"] for one in runs], "s", 0.5, "lower"))
        _plan(MOE, code)
        moe = [_plan(MOE, code) for _ in range(RUNS)]
        emit(from_samples("plan-serving", "moe_cpu_s", [one["new"] for one in moe], "s", 5, "lower"))
        weighed = float(moe[0]["weighed"])
        emit(Figure("plan-serving", "moe_weighed", weighed, "deployments", None, "higher", 1))


def _plan(request: dict[str, object], folder: str) -> dict[str, float]:
    out = subprocess.run(
        [sys.executable, "-c", _CODE, json.dumps(request)],
        check=True, capture_output=True, text=True, env={**os.environ, "TRIMTAB_CACHE_DIR": folder},
    ).stdout  # fmt: skip
    found: dict[str, float] = json.loads(out)
    return found
