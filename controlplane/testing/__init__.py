"""Fakes and contract tests, shipped so that plug-in authors can test as we do. Every fake says so in its name.

Belongs here: in-process stand-ins with the behaviour callers depend on, and the test classes that hold a stand-in
and the real thing to the same contract. Does not belong here: anything a running control plane uses.
"""

from controlplane.testing.fake_api_server import FakeApiServer, Fault
from controlplane.testing.fake_clock import FakeClock, settle

__all__ = ["FakeApiServer", "FakeClock", "Fault", "settle"]
