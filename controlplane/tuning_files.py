"""What a tuning job leaves behind, made from the store: its decision, its report, its bundle."""

from __future__ import annotations

from controlplane.model.tuning_decision import TuningDecision
from controlplane.model.tuning_records import TuningEvent, TuningJobRecord
from controlplane.store.database import Database
from controlplane.store.event_log import PAGE_MAX, EventLog
from controlplane.store.studies import Studies
from controlplane.tuning_canary import Latencies, confirming, latencies
from controlplane.tuning_jobs import Confirmation
from operators.tuning.best import decided
from tuner.tuning_bundle import packed
from tuner.tuning_report import tuning_page

_NEWEST = 100  # trials: those that confirm come last
# Raw samples of these trials go into a bundle: all that were confirmed, and the search's best.
_SAMPLES_MAX = 200
# Of them all: a bundle is made in memory, and one attempt's may be 16 MiB.
_SAMPLES_BYTES_MAX = 128 * 2**20


def decision_of(database: Database, record: TuningJobRecord) -> TuningDecision:
    """As the job's driver kept it, or as it would be now: of a job without one, or with one of another version."""
    kept = decided(record)
    if kept is not None:
        return kept
    return Confirmation().decision(record.spec, Studies(database).trials_from(record.id, 0))


def latencies_of(database: Database, record: TuningJobRecord, decision: TuningDecision) -> Latencies:
    """What a canary would judge, as it was measured when the best was confirmed."""
    studies = Studies(database)
    newest = studies.page(record.id, limit=_NEWEST, offset=max(0, record.counts.asked - _NEWEST))
    numbers = [number for side in confirming(newest, decision) for number in side]
    measured = [attempt for number in numbers for attempt in studies.measured(record.id, number=number)]
    return latencies(newest, measured, decision)


def report_of(database: Database, record: TuningJobRecord) -> str:
    """One HTML file."""
    studies = Studies(database)
    return tuning_page(
        record, studies.trials_from(record.id, 0), studies.measured(record.id), decision_of(database, record)
    )


def bundle_of(database: Database, record: TuningJobRecord, *, in_pods: bool = False) -> bytes:
    """One tar.gz. `in_pods`: of an installation on a cluster."""
    studies = Studies(database)
    trials, measured = studies.trials_from(record.id, 0), studies.measured(record.id)
    decision = decision_of(database, record)
    wanted = {trial.number for trial in trials if trial.purpose.value != "search"}
    wanted |= {one.number for one in decision.confirmed if one.number is not None} | set(decision.front)
    samples: dict[tuple[int, int], bytes] = {}
    size = 0
    for attempt in measured:
        if attempt.number in wanted and len(samples) < _SAMPLES_MAX:
            found = studies.samples(record.id, attempt.number, attempt.attempt)
            if found and size + len(found) <= _SAMPLES_BYTES_MAX:
                samples[(attempt.number, attempt.attempt)] = found
                size += len(found)
    events: list[TuningEvent] = []
    log, last = EventLog(database), 0
    while page := log.after(record.id, last, limit=PAGE_MAX):
        events += page
        last = page[-1].id
    return packed(record, trials, measured, decision, samples, events, in_pods=in_pods)
