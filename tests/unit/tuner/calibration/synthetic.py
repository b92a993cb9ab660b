"""Observations whose truth is known: made-up step tables, real questions, latencies from the replay itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tests.unit.tuner.replay.cases import table
from tuner.serving.calibration.fit import knobs_of
from tuner.serving.calibration.labels import labels_of
from tuner.serving.calibration.observations import Observation, replayed
from tuner.serving.calibration.parameters import Effect
from tuner.serving.calibration.silicon import Shape, SiliconRow
from tuner.serving.deployment import deployment_of
from tuner.serving.question import parse_question
from tuner.serving.traffic import requests_of

MODELS = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-32b", "gpt-oss-120b")


def row(model: str, system: str, backend: str, clients: int, isl: int, osl: int) -> SiliconRow:
    shape = Shape(
        tensor_parallel=8, pipeline_parallel=1, attention_data_parallel=1, moe_tensor_parallel=1, moe_expert_parallel=1
    )
    return SiliconRow(
        line=1, id=f"{model}-{system}-{backend}-{clients}-{isl}-{osl}", backend=backend, backend_version=None, model=model,
        system=system, precision="fp8", mode="agg", isl=isl, osl=osl, gemm_quant=None, moe_quant=None, shape=shape,
        replicas=1, batch_per_rank=clients, concurrency=clients, prefill=None, decode=None, role_degrees=(), ttft_ms=1.0, tpot_ms=1.0,
        work_in_progress=False, export="made up", repairs=(),
    )  # fmt: skip


def observations(
    effects: list[Effect],
    *,
    models: tuple[str, ...] = MODELS,
    systems: tuple[str, ...] = ("h200_sxm", "b200_sxm"),
    backends: tuple[str, ...] = ("vllm", "sglang"),
    noise: float = 0.0,
    seed: int = 0,
) -> list[Observation]:
    """Runs of every combination at three loads, as engines with these effects would have made them."""
    rng = np.random.default_rng(seed)
    found = []
    for model in models:
        for system in systems:
            for backend in backends:
                for clients, isl, osl in ((2, 1024, 64), (16, 512, 128), (48, 2048, 32)):
                    wanted = row(model, system, backend, clients, isl, osl)
                    found.append(_observed(wanted, effects, rng.normal(0.0, noise, 2)))
    return found


def _observed(wanted: SiliconRow, effects: list[Effect], error: np.ndarray) -> Observation:
    question = parse_question(
        {
            "id": wanted.id, "model": wanted.model, "system": wanted.system, "backend": wanted.backend, "tp": 8,
            "isl": wanted.isl, "osl": wanted.osl, "arrivals": {"closed": wanted.concurrency},
            "requests": 4 * (wanted.concurrency or 1),
        }
    )  # fmt: skip
    requests = requests_of(question)
    deployment = deployment_of(question, int((requests.isl + requests.osl).max()))
    plain = replace(table(), provenance=table().provenance.model_copy(update={"tier": "measured"}))
    blank = Observation(
        row=wanted, labels=labels_of(deployment.members[0].case, plain), table=plain, deployment=deployment,
        requests=requests, measured=(1.0, 1.0),
    )  # fmt: skip
    ttft, tpot = np.array(replayed(blank, knobs_of([blank], effects)[0])) * np.exp(error)
    return replace(blank, row=replace(wanted, ttft_ms=ttft, tpot_ms=tpot), measured=(float(ttft), float(tpot)))
