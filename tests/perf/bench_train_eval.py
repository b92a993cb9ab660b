"""Speed of the training evaluator: iteration time and memory of every stage, one core, pipelines of 1 to 64 stages."""

import time
from dataclasses import fields, replace

import numpy as np

from tests.perf.report import Emit, from_samples
from tuner.training.columns import Columns, columns
from tuner.training.constants import shipped
from tuner.training.iteration import iteration
from tuner.training.memory import stage_totals
from tuner.training.question import parse_case

RUNS = 9
BATCH = 2048  # configurations of one pipeline length; columns stay in the second-level cache
STAGES = (1, 2, 4, 8, 16, 32, 64)
CASE = {
    "model": {"layers": 64, "hidden": 12288, "heads": 96, "vocab": 51200, "seq": 2048},
    "cluster": {"gpu": "a100-sxm-80gb", "gpus": 4096, "gpus_per_node": 8, "nic": "ib-hdr-200", "nics_per_node": 8},
    "global_batch": 4096,
}


def run(emit: Emit) -> None:
    constants = shipped()
    batches = [(stages, _batch(stages)) for stages in STAGES]
    count = BATCH * len(STAGES)

    def once() -> float:
        start = time.process_time()
        for stages, batch in batches:
            iteration(batch, constants)
            stage_totals(batch, constants, stages)
        return count / (time.process_time() - start)

    once()
    emit(from_samples("train-eval", "configs_per_s", [once() for _ in range(RUNS)], "1/s", 600_000, "higher"))


def _batch(stages: int) -> Columns:
    """Configurations of one pipeline length that differ in every degree that the length leaves open."""
    one = columns([(parse_case(CASE), 0)], tuple(shipped().accelerators))
    many = Columns(
        **{
            item.name: np.repeat(value, BATCH) if isinstance(value := getattr(one, item.name), np.ndarray) else value
            for item in fields(Columns)
        }
    )
    chance = np.random.default_rng(stages)

    def drawn(*values: float) -> np.ndarray:
        return chance.choice(np.array(values, dtype=np.float64), BATCH)

    tp, micro = drawn(1, 2, 4, 8), drawn(1, 2, 4)
    dp = drawn(1, 2, 4, 8, 16, 32)
    each = np.full(BATCH, 64.0 / stages)
    return replace(
        many, pp=np.full(BATCH, float(stages)), first=each, most=each, last=each, tp=tp, dp=dp, micro_batch=micro,
        micro_batches=np.maximum(4096.0 / dp / micro, 1.0), schedule=drawn(0, 1, 2, 3, 4), vpp=drawn(1, 2),
        recompute=drawn(0, 1, 3), zero=drawn(0, 1, 2), sp=drawn(0, 1), flash=drawn(0, 1),
    )  # fmt: skip
