import pytest

from controlplane.kube import ClusterAccess, KubeClient
from controlplane.testing import FakeApiServer, FakeClock, Fault
from operators.runtime import EventRecorder, Regarding

EVENTS = "events.k8s.io/v1/events"
ABOUT = Regarding("example.dev/v1", "Widget", "w", "ns", "uid-1")


@pytest.fixture
async def server():
    async with FakeApiServer() as fake:
        yield fake


@pytest.fixture
async def recorder(server):
    async with KubeClient(ClusterAccess(server.url), timeout_s=5.0) as client:
        yield EventRecorder(client, "trimtab-operator", instance="here", clock=FakeClock())


def recorded(server: FakeApiServer) -> list[dict[str, object]]:
    return server.storage.objects(EVENTS)


async def test_an_event_says_who_what_and_why(server, recorder):
    recorder.event(ABOUT, "Warning", "NoMatchingFlavor", "no pool has 8 free GPUs", "Place")
    await recorder.flush(5.0)
    (event,) = recorded(server)
    assert event["metadata"]["namespace"] == "ns"
    assert event["regarding"] == {
        "apiVersion": "example.dev/v1",
        "kind": "Widget",
        "name": "w",
        "namespace": "ns",
        "uid": "uid-1",
    }
    assert (event["type"], event["reason"], event["action"]) == ("Warning", "NoMatchingFlavor", "Place")
    assert event["reportingController"] == "trimtab-operator"


async def test_repeats_are_counted_not_repeated(server, recorder):
    for _ in range(1_000):
        recorder.event(ABOUT, "Normal", "Scaled", "to 3", "Scale")
    await recorder.flush(5.0)
    (event,) = recorded(server)
    assert event["series"]["count"] == 512
    assert len(server.writes()) == 10


async def test_one_object_cannot_flood(server, recorder):
    for n in range(100):
        recorder.event(ABOUT, "Normal", "Scaled", f"to {n}", "Scale")
    recorder.event(Regarding("v1", "Node", "n1"), "Normal", "Seen", "first", "Read")
    await recorder.flush(5.0)
    namespaces = [event["metadata"]["namespace"] for event in recorded(server)]
    assert namespaces.count("ns") == 25
    assert namespaces.count("default") == 1  # cluster-scoped
    assert recorder.lost_total == 75


async def test_the_queue_is_bounded_and_a_broken_server_harms_nobody(server, recorder):
    server.faults.append(Fault(status=403))
    for n in range(1_200):
        recorder.event(Regarding("v1", "Pod", f"p{n}", "ns"), "Normal", "X", "y", "Z")
    assert recorder.lost_total == 200
    await recorder.flush(20.0)
    assert recorder.lost_total == 1_200
    assert recorded(server) == []


async def test_an_event_that_could_not_be_written_is_written_when_it_repeats(server, recorder):
    server.faults.append(Fault(status=403, times=1))
    for _ in range(2):
        recorder.event(ABOUT, "Warning", "NoMatchingFlavor", "no pool has 8 free GPUs", "Place")
    await recorder.flush(5.0)
    assert len(recorded(server)) == 1
    assert recorder.lost_total == 1


async def test_long_notes_are_cut_at_the_servers_limit(server, recorder):
    recorder.event(ABOUT, "Normal", "X", "ä" * 2_000, "Z")
    await recorder.flush(5.0)
    assert len(recorded(server)[0]["note"].encode()) <= 1_024
