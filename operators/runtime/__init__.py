"""The controller runtime: watch, cache, queue, reconcile, write behind a fence.

Belongs here: what any controller needs and no resource of ours shows: reflector, store with indexes, informer, work
queue, controller, expectations, server-side apply, conditions, events, leader election, metrics, the manager that
wires them. Does not belong here: what a resource means, placement, rendering. Only this package of the room talks
to `controlplane.kube`. How to write a controller with it: docs/runtime.md.
"""

from operators.runtime.apply import Writer
from operators.runtime.clock import Clock, SystemClock, rfc3339, rfc3339_micro
from operators.runtime.conditions import (
    Condition,
    dominant,
    find_condition,
    is_true,
    set_condition,
    status_changed,
    with_finalizer,
    without_finalizer,
)
from operators.runtime.controller import DONE, Controller, Result, TerminalError
from operators.runtime.endpoints import Endpoints
from operators.runtime.events import EventRecorder, Regarding
from operators.runtime.expectations import Expectations
from operators.runtime.fence import Fence, FenceLost
from operators.runtime.health import ReflectorHealth
from operators.runtime.informer import Handler, Informer
from operators.runtime.leader import LeaderElector, LeaderTimes
from operators.runtime.lease import KubeLeaseStore, LeaseRecord, LeaseStore
from operators.runtime.manager import Manager
from operators.runtime.metrics import ControllerMetrics, RuntimeMetrics
from operators.runtime.objects import (
    Cached,
    Key,
    Labels,
    ObjectMeta,
    OwnerReference,
    Row,
    Wire,
    controller_of,
    intern,
    intern_labels,
    key_of,
    label,
    owner_reference,
    pick_labels,
    split_key,
)
from operators.runtime.offload import Offload, OffloadError
from operators.runtime.projection import Projection
from operators.runtime.reflector import Reflector
from operators.runtime.store import Indexer, Store
from operators.runtime.watchdog import FenceWatchdog
from operators.runtime.workqueue import WorkQueue

__all__ = [
    "DONE",
    "Cached",
    "Clock",
    "Condition",
    "Controller",
    "ControllerMetrics",
    "Endpoints",
    "EventRecorder",
    "Expectations",
    "Fence",
    "FenceLost",
    "FenceWatchdog",
    "Handler",
    "Indexer",
    "Informer",
    "Key",
    "KubeLeaseStore",
    "Labels",
    "LeaderElector",
    "LeaderTimes",
    "LeaseRecord",
    "LeaseStore",
    "Manager",
    "ObjectMeta",
    "Offload",
    "OffloadError",
    "OwnerReference",
    "Projection",
    "Reflector",
    "ReflectorHealth",
    "Regarding",
    "Result",
    "Row",
    "RuntimeMetrics",
    "Store",
    "SystemClock",
    "TerminalError",
    "Wire",
    "WorkQueue",
    "Writer",
    "controller_of",
    "dominant",
    "find_condition",
    "intern",
    "intern_labels",
    "is_true",
    "key_of",
    "label",
    "owner_reference",
    "pick_labels",
    "rfc3339",
    "rfc3339_micro",
    "set_condition",
    "split_key",
    "status_changed",
    "with_finalizer",
    "without_finalizer",
]
