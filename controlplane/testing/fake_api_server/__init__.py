"""A fake Kubernetes API server in this process, on a real loopback port.

Belongs here: what clients and controllers depend on (versions, paged lists, watches with bookmarks and 410,
conflicts, preconditions, finalizers, the useful part of server-side apply) and faults on demand. Does not belong
here: anything a real API server must be asked for instead (schemas, RBAC, garbage collection).
"""

from controlplane.testing.fake_api_server.faults import Fault
from controlplane.testing.fake_api_server.reviews import FakeReviews
from controlplane.testing.fake_api_server.server import FakeApiServer
from controlplane.testing.fake_api_server.storage import FakeStorage, Refusal

__all__ = ["FakeApiServer", "FakeReviews", "FakeStorage", "Fault", "Refusal"]
