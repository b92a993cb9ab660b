"""A measured run as the fit sees it: what is replayed, what came out, and the labels that effects may look at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlplane.model.errors import TrimtabError
from tuner.serving.calibration.apply import bounded, corrected
from tuner.serving.calibration.labels import labels_of
from tuner.serving.calibration.parameters import KNOBS, Knob
from tuner.serving.calibration.rows import row_question
from tuner.serving.calibration.silicon import SiliconRow
from tuner.serving.deployment import Deployment, deployment_of, fleet_of
from tuner.serving.replay.fleet import Replica
from tuner.serving.replay.requests import Requests
from tuner.serving.replay.run import simulate
from tuner.serving.step.ladder import step_table
from tuner.serving.step.store import TableStore
from tuner.serving.step.table import StepTable
from tuner.serving.traffic import requests_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Observation:
    """`measured` is (mean TTFT, mean TPOT) in ms; `table` is uncorrected."""

    row: SiliconRow
    labels: Mapping[str, str]
    table: StepTable
    deployment: Deployment
    requests: Requests
    measured: tuple[float, float]

    @property
    def tier(self) -> str:
        """Source of the step times."""
        return self.table.provenance.tier

    @property
    def group(self) -> tuple[str, str, str]:
        """(engine, accelerator, model): what held-out validation leaves out."""
        return self.labels["engine"], self.labels["accelerator"], self.labels["model"]


def observe(
    rows: Iterable[SiliconRow], *, store: TableStore | None = None
) -> tuple[list[Observation], list[tuple[SiliconRow, TrimtabError]]]:
    """Rows that can be replayed, in order, and those that cannot, each with the reason."""
    found: list[Observation] = []
    missed: list[tuple[SiliconRow, TrimtabError]] = []
    tables: dict[object, StepTable] = {}
    for row in rows:
        try:
            question = row_question(row)
            requests = requests_of(question)
            deployment = deployment_of(question, int((requests.isl + requests.osl).max()))
            case = deployment.members[0].case
            if case not in tables:
                tables[case] = step_table(case, store=store)
        except TrimtabError as error:
            missed.append((row, error))
            continue
        found.append(
            Observation(
                row=row,
                labels=labels_of(case, tables[case]),
                table=tables[case],
                deployment=deployment,
                requests=requests,
                measured=(row.ttft_ms, row.tpot_ms),
            )
        )
    return found, missed


def replayed(observation: Observation, knobs: Floats) -> tuple[float, float]:
    """(mean TTFT, mean TPOT) in ms under knobs in the order of `KNOBS`."""
    values: dict[Knob, float] = dict(zip(KNOBS, knobs.tolist(), strict=True))
    member = observation.deployment.members[0]
    one = Replica(
        table=corrected(observation.table, values),
        rules=member.rules,
        kv_blocks=member.kv_blocks,
        attention_ranks=member.case.attention_data_parallel,
        pipeline_stages=member.case.pipeline_parallel,
        host_step_ms=bounded("step_ms", values["step_ms"]),
        host_sequence_ms=bounded("sequence_ms", values["sequence_ms"]),
        request_ms=bounded("request_ms", values["request_ms"]),
        entry_token_ms=bounded("entry_token_ms", values["entry_token_ms"]),
    )
    result = simulate(fleet_of(observation.deployment, lambda _: one), observation.requests)
    return float(np.nanmean(result.ttft_ms)), float(np.nanmean(result.tpot_ms))


def log_errors(observations: Sequence[Observation], knobs: Floats) -> Floats:
    """ln(predicted / measured) of TTFT and TPOT: one row per observation."""
    found = np.empty((len(observations), 2))
    for i, observation in enumerate(observations):
        for j, (predicted, measured) in enumerate(
            zip(replayed(observation, knobs[i]), observation.measured, strict=True)
        ):
            found[i, j] = math.log(predicted / measured)
    return found
