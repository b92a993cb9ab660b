"""The predictor: a question in, an answer out. Pure but for step tables kept on disk; no network, no cluster."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.catalog import ModelShape, load
from controlplane.model.errors import TrimtabError
from controlplane.model.plans import Provenance, Role
from tuner.serving.answer import Interval, answer_of, merged, per_request_arrays, table_failures
from tuner.serving.calibration.apply import calibrate, of_roles
from tuner.serving.calibration.parameters import METRICS, Calibration, load_calibration
from tuner.serving.case import EngineCase
from tuner.serving.deployment import Deployment, Member, deployment_of, fleet_of
from tuner.serving.draw import capped, draw_of
from tuner.serving.question import Question
from tuner.serving.replay.fleet import Replica
from tuner.serving.replay.requests import Requests
from tuner.serving.replay.result import ReplayResult
from tuner.serving.replay.run import simulate
from tuner.serving.resolve import find_model
from tuner.serving.step.ladder import step_table
from tuner.serving.step.store import TableStore
from tuner.serving.step.table import StepTable
from tuner.serving.traffic import requests_of

_SLOTS = ("current", "previous", "next")  # releases of the measured tables, by age
ENGINES_KEPT = 512  # their tables take about 100 kB each


# What an engine case and the catalogue call a field -> what the question calls it.
_FIELDS = {
    "tensor_parallel": "tp",
    "tensorParallel": "tp",
    "pipeline_parallel": "pp",
    "pipelineParallel": "pp",
    "attention_data_parallel": "attention_dp",
    "dataParallel": "attention_dp",
    "moe_tensor_parallel": "moe_tp",
    "moe_expert_parallel": "moe_ep",
    "expertParallel": "moe_ep",
    "accelerator": "system",
    "engine": "backend",
    "engine_version": "backend_version",
}


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """An answer and the replay behind it."""

    answer: dict[str, Any]
    deployment: Deployment
    requests: Requests
    result: ReplayResult


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Engine:
    """An engine case as the replay takes it: its table, corrected or not, and what goes with the correction."""

    table: StepTable
    host_step_ms: float = 0.0
    host_sequence_ms: float = 0.0
    request_ms: float = 0.0
    entry_token_ms: float = 0.0
    bands: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # by metric


class Predictor:
    """Answers questions; engines it has seen are kept. `calibration` None: the packaged corrections. `raw`: none at
    all, so no interval either. `store` None: step tables are kept in the user's cache folder. `traces`: where traces are looked for,
    too."""

    def __init__(
        self,
        *,
        calibration: Calibration | Path | None = None,
        raw: bool = False,
        store: TableStore | None = None,
        traces: Path | None = None,
    ) -> None:
        self._store = store
        self._traces = traces
        self._engines: OrderedDict[tuple[EngineCase, float | None], Engine] = OrderedDict()
        if raw:
            self._calibration = None
        else:
            self._calibration = calibration if isinstance(calibration, Calibration) else load_calibration(calibration)

    @property
    def calibration(self) -> Calibration | None:
        """The corrections in use; None: raw."""
        return self._calibration

    def answer(self, question: Question, *, per_request: bool = False) -> dict[str, Any]:
        """The batch interface's answer without its id. Raises TrimtabError with the field at fault."""
        found = self.predict(question)
        return found.answer | ({"per_request": per_request_arrays(found.result)} if per_request else {})

    def predict(self, question: Question) -> Prediction:
        """As `answer`, with the replay. Raises TrimtabError with the field at fault."""
        try:
            return self._predict(question)
        except TrimtabError as error:
            error.field = _FIELDS.get(error.field or "", error.field)
            raise

    def _predict(self, question: Question) -> Prediction:
        requests = requests_of(question, self._traces)
        deployment = deployment_of(question, int((requests.isl + requests.osl).max()))
        fleet = fleet_of(deployment, lambda member: self._replica(member, question))
        result = simulate(fleet, requests, seed=question.seed)
        engines = [(member.role, self._engine(member.case, question.power_cap_w)) for member in deployment.members]
        answer = answer_of(
            result,
            accelerators=deployment.accelerators,
            intervals=_intervals(engines),
            draw=draw_of(
                result,
                deployment,
                cap_w=question.power_cap_w,
                price_per_accelerator_hour=question.price_per_accelerator_hour,
                currency=question.currency,
            ),
            provenance=merged([(role, engine.table.provenance) for role, engine in engines]),
            warnings=[
                *question.remarks,
                *(said for member in deployment.members for said in member.warnings),
                *_limits(requests, find_model(load(), question.model)),
                *_stand_ins(question, [engine.table.provenance for _, engine in engines]),
                *table_failures(engine.table.provenance for _, engine in engines),
            ],
        )
        return Prediction(answer, deployment, requests, result)

    def _replica(self, member: Member, question: Question) -> Replica:
        case, engine = member.case, self._engine(member.case, question.power_cap_w)
        return Replica(
            table=engine.table,
            rules=member.rules,
            kv_blocks=member.kv_blocks,
            role=member.role,
            attention_ranks=case.attention_data_parallel,
            pipeline_stages=case.pipeline_parallel,
            draft_tokens=case.draft_tokens,
            accepted_tokens=question.accepted_tokens,
            host_step_ms=engine.host_step_ms,
            host_sequence_ms=engine.host_sequence_ms,
            request_ms=engine.request_ms,
            entry_token_ms=engine.entry_token_ms,
        )

    def _engine(self, case: EngineCase, cap_w: float | None) -> Engine:
        key = (case, cap_w)
        found = self._engines.get(key)
        if found is None:
            found = self._engines[key] = self._built(case, cap_w)
            if len(self._engines) > ENGINES_KEPT:
                self._engines.popitem(last=False)
        self._engines.move_to_end(key)
        return found

    def _built(self, case: EngineCase, cap_w: float | None) -> Engine:
        table = step_table(case, store=self._store)
        if cap_w is not None:
            table = capped(case, table, cap_w)
        if self._calibration is None:
            return Engine(table=table)
        corrected = calibrate(case, table, self._calibration)
        return Engine(
            table=corrected.table,
            host_step_ms=corrected.host_step_ms,
            host_sequence_ms=corrected.host_sequence_ms,
            request_ms=corrected.request_ms,
            entry_token_ms=corrected.entry_token_ms,
            bands={metric: corrected.interval(metric) for metric in METRICS},
        )


def _limits(requests: Requests, model: ModelShape) -> list[str]:
    """Says so where requests are longer than the model reads: an engine refuses them, and the answer still counts them."""
    most, totals = model.max_context_tokens, requests.isl + requests.osl
    long = 0 if most is None else int((totals > most).sum())
    if not long:
        return []
    return [
        f"{long} of {len(totals)} requests are longer than {model.id} reads: up to {int(totals.max())} tokens of input "
        f"and output, its context has {most}; an engine would refuse them"
    ]


def _stand_ins(question: Question, provenances: list[Provenance]) -> list[str]:
    """Says so where an engine release was asked for that the step tables behind the answer are not of."""
    asked = question.backend_version
    if asked is None or asked in _SLOTS:
        return []
    other = dict.fromkeys(item.source for item in provenances if f" {asked} on " not in item.source)
    return [f"backend_version {asked} was not measured; times are from {source}" for source in other]


def _intervals(engines: list[tuple[Role, Engine]]) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    for metric in METRICS:
        band = of_roles([(role, engine.bands[metric]) for role, engine in engines if metric in engine.bands], metric)
        if band is not None:
            found[metric] = Interval(*band)
    return found
