"""Prometheus metrics under controller-runtime's names, so that existing dashboards and alerts work unchanged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from operators.runtime.clock import Clock, SystemClock

if TYPE_CHECKING:
    from operators.runtime.workqueue import WorkQueue

# controller-runtime pkg/internal/controller/metrics: ReconcileTime.
_RECONCILE_BUCKETS_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    *(1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50, 60),
)
# controller-runtime pkg/metrics/workqueue.go: ExponentialBuckets(10e-9, 10, 12).
_QUEUE_BUCKETS_S = tuple(10e-9 * 10**exponent for exponent in range(12))
# client-go's rest_client_request_duration_seconds as exposed by controller-runtime.
_REQUEST_BUCKETS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)


class ControllerMetrics:
    """What a controller and its queue report. This base counts nothing: for tests and one-off tools."""

    def bind(self, queue: WorkQueue, workers: int) -> None:
        """Called once, with the queue to look at when scraped."""

    def added(self, depth: int) -> None: ...

    def got(self, depth: int, queued_s: float) -> None: ...

    def done(self, worked_s: float) -> None: ...

    def retried(self) -> None: ...

    def started(self) -> None: ...

    def finished(self, outcome: str, duration_s: float) -> None: ...

    def terminal_error(self) -> None: ...

    def panicked(self) -> None: ...

    def timed_out(self) -> None: ...


class RuntimeMetrics:
    """The families of one process, in one registry."""

    def __init__(self, registry: CollectorRegistry | None = None, clock: Clock | None = None) -> None:
        # `_created` would be one more series for each counter and histogram, and no dashboard reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry or CollectorRegistry()
        self.clock: Clock = clock or SystemClock()
        r, by_name, by_controller = self.registry, ["name", "controller"], ["controller"]
        self.depth = Gauge("workqueue_depth", "Keys waiting in the queue", by_name, registry=r)
        self.adds = Counter("workqueue_adds", "Keys added to the queue", by_name, registry=r)
        self.queue_duration = Histogram(
            "workqueue_queue_duration_seconds", "Time in the queue", by_name, registry=r, buckets=_QUEUE_BUCKETS_S
        )
        self.work_duration = Histogram(
            "workqueue_work_duration_seconds", "Time in a worker", by_name, registry=r, buckets=_QUEUE_BUCKETS_S
        )
        self.retries = Counter("workqueue_retries", "Keys added with back-off", by_name, registry=r)
        self.reconciles = Counter(
            "controller_runtime_reconcile", "Reconciles by result", ["controller", "result"], registry=r
        )
        self.errors = Counter("controller_runtime_reconcile_errors", "Failed", by_controller, registry=r)
        self.terminal_errors = Counter(
            "controller_runtime_terminal_reconcile_errors", "Failed, not retried", by_controller, registry=r
        )
        self.panics = Counter(
            "controller_runtime_reconcile_panics", "Failed by an error in our code", by_controller, registry=r
        )
        self.timeouts = Counter(
            "controller_runtime_reconcile_timeouts", "Stopped by the time limit", by_controller, registry=r
        )
        self.reconcile_time = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "Length of a reconcile",
            by_controller,
            registry=r,
            buckets=_RECONCILE_BUCKETS_S,
        )
        self.max_concurrent = Gauge(
            "controller_runtime_max_concurrent_reconciles", "Workers", by_controller, registry=r
        )
        self.active_workers = Gauge(
            "controller_runtime_active_workers", "Workers with a key", by_controller, registry=r
        )
        self.requests = Counter(
            "rest_client_requests", "Requests to the API server", ["code", "method", "host"], registry=r
        )
        self.request_duration = Histogram(
            "rest_client_request_duration_seconds",
            "Length of a request",
            ["verb", "host"],
            registry=r,
            buckets=_REQUEST_BUCKETS_S,
        )
        self.leader = Gauge("leader_election_master_status", "1 while this process leads", ["name"], registry=r)
        self._request_children: dict[tuple[str, str, str], tuple[Counter, Histogram]] = {}
        self._queues = _QueueCollector(self.clock)
        r.register(self._queues)

    def controller(self, name: str) -> ControllerMetrics:
        """The metrics of one controller; pass them to `Controller(metrics=)`."""
        return _PrometheusControllerMetrics(self, name)

    def observe_request(self, method: str, host: str, code: str, duration_s: float) -> None:
        """A `RequestObserver` for the client."""
        known = self._request_children.get((method, host, code))
        if known is None:
            known = self.requests.labels(code, method, host), self.request_duration.labels(method, host)
            self._request_children[method, host, code] = known
        known[0].inc()
        known[1].observe(duration_s)

    def watch_queue(self, name: str, queue: WorkQueue) -> None:
        self._queues.queues[name] = queue


class _PrometheusControllerMetrics(ControllerMetrics):
    def __init__(self, families: RuntimeMetrics, name: str) -> None:
        self._families = families
        self._name = name
        self._depth = families.depth.labels(name, name)
        self._adds = families.adds.labels(name, name)
        self._queue_duration = families.queue_duration.labels(name, name)
        self._work_duration = families.work_duration.labels(name, name)
        self._retries = families.retries.labels(name, name)
        self._errors = families.errors.labels(name)
        self._terminal_errors = families.terminal_errors.labels(name)
        self._panics = families.panics.labels(name)
        self._timeouts = families.timeouts.labels(name)
        self._reconcile_time = families.reconcile_time.labels(name)
        self._active = families.active_workers.labels(name)
        # Children made now, so that a rate() over a result that has not happened yet is 0 and not missing.
        self._results = {
            result: families.reconciles.labels(name, result)
            for result in ("success", "error", "requeue", "requeue_after")
        }

    def bind(self, queue: WorkQueue, workers: int) -> None:
        self._families.watch_queue(self._name, queue)
        self._families.max_concurrent.labels(self._name).set(workers)

    def added(self, depth: int) -> None:
        self._adds.inc()
        self._depth.set(depth)

    def got(self, depth: int, queued_s: float) -> None:
        self._depth.set(depth)
        self._queue_duration.observe(queued_s)

    def done(self, worked_s: float) -> None:
        self._work_duration.observe(worked_s)

    def retried(self) -> None:
        self._retries.inc()

    def started(self) -> None:
        self._active.inc()

    def finished(self, outcome: str, duration_s: float) -> None:
        self._active.dec()
        self._reconcile_time.observe(duration_s)
        if outcome == "error":
            self._errors.inc()
        result = self._results.get(outcome)
        if result is not None:
            result.inc()

    def terminal_error(self) -> None:
        self._terminal_errors.inc()

    def panicked(self) -> None:
        self._panics.inc()

    def timed_out(self) -> None:
        self._timeouts.inc()


class _QueueCollector(Collector):
    """Gauges that are only true at the moment of the scrape."""

    def __init__(self, clock: Clock) -> None:
        self.queues: dict[str, WorkQueue] = {}
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        unfinished = GaugeMetricFamily(
            "workqueue_unfinished_work_seconds", "Sum of running times", labels=["name", "controller"]
        )
        longest = GaugeMetricFamily(
            "workqueue_longest_running_processor_seconds", "Longest running", labels=["name", "controller"]
        )
        now_s = self._clock.monotonic_s()
        for name, queue in self.queues.items():
            ages_s = [now_s - since_s for since_s in queue.processing_since_s.values()]
            unfinished.add_metric([name, name], sum(ages_s))
            longest.add_metric([name, name], max(ages_s, default=0.0))
        return [unfinished, longest]
