"""The composition roots of `trimtab worker`: one process that measures trials, and one that drives the jobs."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controlplane.cluster_thread import ClusterThread
from controlplane.logs import configure
from controlplane.loops.tuning import TuningDriver
from controlplane.loops.tuning_runs import DriverProcess
from controlplane.model.errors import InvalidSpec
from controlplane.model.ports import StopSignal, TrialQueue, TrialRunner
from controlplane.settings import WorkerSettings
from controlplane.store.database import Database, open_database
from controlplane.store.migrate import upgrade_when_up
from controlplane.store.references import References
from controlplane.store.trials import Trials
from controlplane.tuning_embedded import launchers
from controlplane.tuning_jobs import Confirmation, sampler_of
from controlplane.tuning_pods import ClusterPods
from controlplane.tuning_sweep import PodSweep
from controlplane.worker_health import Health, probed, silence
from operators.serving.render import RenderSettings
from tuner.measure.pods import PodRunner
from tuner.measure.runner import MeasuringRunner
from tuner.search.canonical import canonical_of
from tuner.tasks import JOBS, TRIALS, CeleryQueue, make_app, serve
from tuner.watch import ended_when_late
from tuner.work import Work

log = logging.getLogger(__name__)

# A sweep comes every few seconds; one that hangs for this long, on a connection that died silently, never ends.
_SWEEP_SILENCE_S = 300.0


def serve_trials(settings: WorkerSettings) -> None:
    """Measure one trial after the other until SIGTERM: in pods of the job's namespace, or with the engines installed
    here. User commands are not run in this process either way."""
    configure(settings.process.log_level, settings.process.log_format)
    database = open_database(settings.database)
    health = Health()
    with probed(health, settings.process.host, settings.process.port):
        upgrade_when_up(database)
        health.ready()
        stopping = threading.Event()
        with _in_pods(settings, Trials(database)) if settings.pods else _beside(settings) as runner:
            work = work_on(database, runner, CeleryQueue(make_app(settings.broker)), stopping)
            health.watch(work.watch.wrong)
            app = make_app(settings.broker, trial=work.on)
            with ended_when_late(work.watch):
                serve(app, TRIALS, name=f"worker-{os.getpid()}", told_to_end=stopping.set)
    database.close()


def work_on(database: Database, runner: TrialRunner, queue: TrialQueue, stopping: StopSignal) -> Work:
    """What this process does with a trial. Leases end by the database's clock."""
    return Work(
        store=Trials(database), runner=runner, queue=queue, owner=_name(), now=database.now, stopping=stopping
    )  # fmt: skip


@contextmanager
def _in_pods(settings: WorkerSettings, store: Trials) -> Iterator[TrialRunner]:
    cluster = ClusterThread(settings.process.kubeconfig)
    images = RenderSettings(engine_images=settings.engine_images)
    pods = ClusterPods(cluster, images, settings.process.namespace, settings.namespaces)
    sweep = PodSweep(pods, store, store.database.now)
    sweep.start()
    try:
        yield PodRunner(
            pods, lambda leased, why: store.waits(leased, why, now=store.database.now()), References(store.database)
        )
    finally:
        sweep.close()
        cluster.close()


@contextmanager
def _beside(settings: WorkerSettings) -> Iterator[TrialRunner]:
    folder = Path(settings.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSpec(
            f"cannot be made: {error.strerror}", field="TRIMTAB_HARDWARE_DIR", value=str(folder)
        ) from error
    engines = launchers(os.environ)
    log.info("engines installed here: %s", ", ".join(sorted(engines)) or "none")
    yield MeasuringRunner(
        folder, engines, others_pct_max=settings.others_pct, beside_live=settings.beside_live, commands=False
    )


def serve_jobs(settings: WorkerSettings) -> None:
    """Drive every tuning job until SIGTERM. Several at once do no harm and no good."""
    configure(settings.process.log_level, settings.process.log_format)
    database = open_database(settings.database)
    health = Health()
    with probed(health, settings.process.host, settings.process.port):
        upgrade_when_up(database)
        process = DriverProcess(driver_of(database, CeleryQueue(make_app(settings.broker))))
        process.start()
        health.watch(silence(lambda: process.swept_s, time.monotonic, _SWEEP_SILENCE_S, "sweeps"))
        health.ready()
        serve(make_app(settings.broker, job=process.step), JOBS, name=f"driver-{os.getpid()}")
        process.close()
    database.close()


def driver_of(database: Database, queue: TrialQueue) -> TuningDriver:
    """What brings jobs forward, by the database's clock."""
    return TuningDriver(
        database=database, queue=queue, sampler=sampler_of, canonical=canonical_of, now=database.now,
        closing=Confirmation(),
    )  # fmt: skip


def _name() -> str:
    return f"{os.uname().nodename}:{os.getpid()}"
