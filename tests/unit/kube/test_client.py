import asyncio
import json

import pytest

from controlplane.kube import (
    PODS,
    AlreadyExists,
    ClusterAccess,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    KubeClient,
    KubeError,
    NotFound,
    ResponseTooLarge,
    Timeout,
    TooManyRequests,
    Unauthorized,
    Unreachable,
    error_from,
)
from controlplane.testing import FakeApiServer, Fault


def pod(name: str, **extra: object) -> dict[str, object]:
    return {"metadata": {"name": name, "namespace": "default", **extra}, "spec": {}}


@pytest.fixture
async def server():
    async with FakeApiServer() as fake:
        yield fake


@pytest.fixture
async def client(server):
    async with KubeClient(ClusterAccess(server.url, token="ours"), timeout_s=5.0) as kube:
        yield kube


async def test_create_get_delete_round_trip(client):
    created = json.loads(await client.create(PODS, pod("a"), "default"))
    assert created["metadata"]["uid"]
    assert json.loads(await client.get(PODS, "a", "default")) == created
    await client.delete(PODS, "a", "default", uid=created["metadata"]["uid"])
    with pytest.raises(NotFound) as caught:
        await client.get(PODS, "a", "default")
    assert caught.value.what == "GET /api/v1/namespaces/default/pods/a"


async def test_errors_have_types(client):
    await client.create(PODS, pod("a"), "default")
    with pytest.raises(AlreadyExists):
        await client.create(PODS, pod("a"), "default")
    with pytest.raises(Conflict):
        await client.delete(PODS, "a", "default", uid="somebody-else")


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (401, "Unauthorized", Unauthorized),
        (403, "Forbidden", Forbidden),
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", AlreadyExists),
        (410, "Expired", Gone),
        (200, "Expired", Gone),
        (422, "Invalid", Invalid),
        (429, "TooManyRequests", TooManyRequests),
        (418, "Teapot", KubeError),
    ],
)
def test_status_bodies_become_typed_errors(status, reason, kind):
    body = json.dumps({"kind": "Status", "code": status, "reason": reason, "message": "m"}).encode()
    assert type(error_from(status, body)) is kind


def test_an_answer_that_is_no_status_keeps_its_text():
    error = error_from(502, b"<html>bad gateway</html>")
    assert error.status == 502
    assert "bad gateway" in error.message


async def test_one_connection_serves_many_requests(server, client):
    await client.create(PODS, pod("a"), "default")
    for _ in range(20):
        await client.get(PODS, "a", "default")
    assert server.connections_total == 1


async def test_connections_are_bounded(server):
    server.faults.append(Fault(method="GET", delay_s=0.05))
    async with KubeClient(ClusterAccess(server.url), max_connections=3) as kube:
        await asyncio.gather(*(kube.list_page(PODS) for _ in range(12)))
    assert server.connections_total == 3


async def test_an_urgent_request_does_not_queue(server):
    server.faults.append(Fault(method="GET", path_contains="pods", hang=True))
    async with KubeClient(ClusterAccess(server.url), max_connections=1, timeout_s=5.0) as kube:
        stuck = asyncio.create_task(kube.list_page(PODS))
        while not server.requests:
            await asyncio.sleep(0)
        await kube.request("GET", "/api/v1/nodes", urgent=True)
        with pytest.raises(Timeout):
            await kube.request("GET", "/api/v1/nodes", timeout_s=0.05)
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)
        await kube.request("GET", "/api/v1/nodes")


async def test_a_closed_idle_connection_is_replaced(server, client):
    await client.list_page(PODS)
    await server.stop()
    await server.start()
    await client.list_page(PODS)


async def test_idempotent_requests_survive_a_reset(server, client):
    server.faults.append(Fault(method="GET", drop_before=True, times=2))
    await client.list_page(PODS)
    assert [m for m, _, _ in server.requests] == ["GET"] * 3


async def test_a_create_is_not_repeated_after_a_reset(server, client):
    server.faults.append(Fault(method="POST", drop_after=True, times=1))
    with pytest.raises(Unreachable):
        await client.create(PODS, pod("a"), "default")
    assert len(server.requests) == 1
    assert json.loads(await client.get(PODS, "a", "default"))  # it had taken effect: repeating would be wrong


async def test_a_create_is_repeated_when_nothing_could_be_sent(server, client):
    await server.stop()

    async def later() -> None:
        await asyncio.sleep(0.05)
        await server.start()

    starting = asyncio.create_task(later())
    await client.create(PODS, pod("a"), "default")
    await starting


async def test_shed_requests_wait_as_told_and_go_again(server, client):
    server.faults.append(Fault(method="POST", status=429, retry_after_s=0, times=2))
    await client.create(PODS, pod("a"), "default")
    assert len(server.requests) == 3


async def test_retry_after_reaches_a_caller_who_does_not_want_retries(server, client):
    server.faults.append(Fault(status=429, retry_after_s=7, times=1))
    with pytest.raises(TooManyRequests) as caught:
        await client.request("POST", "/api/v1/namespaces/default/pods", body=pod("a"), retry=False)
    assert caught.value.retry_after_s == 7


async def test_a_hung_answer_ends_at_the_deadline_and_frees_the_connection(server):
    server.faults.append(Fault(hang=True, times=1))
    async with KubeClient(ClusterAccess(server.url), max_connections=1) as kube:
        with pytest.raises(Timeout):
            await kube.list_page(PODS, timeout_s=0.05)
        await kube.list_page(PODS)


async def test_the_callers_token_replaces_ours(server, client):
    server.accepted_tokens = {"ours", "theirs"}
    await client.list_page(PODS)
    await client.list_page(PODS, token="theirs")
    assert [token for _, _, token in server.requests] == ["ours", "theirs"]
    with pytest.raises(Unauthorized):
        await client.list_page(PODS, token="wrong")


async def test_a_token_cannot_smuggle_headers(client):
    with pytest.raises(Unauthorized):
        await client.list_page(PODS, token="x\r\nX-Remote-User: admin")


async def test_before_send_stops_the_request_and_runs_on_every_attempt(server, client):
    calls = 0

    def fence() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise PermissionError("closed")

    server.faults.append(Fault(method="DELETE", drop_before=True))
    with pytest.raises(PermissionError):
        await client.delete(PODS, "a", "default", before_send=fence)
    assert len(server.requests) == 1
    server.faults.clear()
    await client.list_page(PODS)  # the connection that was not written to is not left behind


async def test_an_answer_over_the_limit_is_refused(server):
    async with KubeClient(ClusterAccess(server.url), max_response_bytes=10_000) as kube:
        await kube.create(PODS, pod("a", annotations={"x": "y" * 5_000}), "default")
        await kube.create(PODS, pod("b", annotations={"x": "y" * 5_000}), "default")
        with pytest.raises(ResponseTooLarge, match="limit="):
            await kube.list_page(PODS)
        await kube.list_page(PODS, limit=1)


async def test_nothing_listening_is_unreachable():
    async with KubeClient(ClusterAccess("http://127.0.0.1:9"), timeout_s=5.0) as kube:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
            await kube.request("GET", "/version", retry=False)


async def test_requests_are_observed(server):
    seen: list[tuple[str, str]] = []
    observe = lambda method, host, code, duration_s: seen.append((method, code))  # noqa: E731
    async with KubeClient(ClusterAccess(server.url), observer=observe) as kube:
        await kube.list_page(PODS)
        with pytest.raises(NotFound):
            await kube.get(PODS, "a", "default")
        async with kube.watch(PODS, resource_version="1"):
            pass
    assert seen == [("GET", "200"), ("GET", "404"), ("WATCH", "200")]


def test_addresses_that_would_mean_something_else_are_refused():
    with pytest.raises(ValueError, match="needs a namespace"):
        PODS.path(None, "a")
    with pytest.raises(ValueError, match="no name"):
        PODS.path("default", "..")
    assert PODS.path("a b", "x/y") == "/api/v1/namespaces/a%20b/pods/x%2Fy"


async def test_a_path_cannot_smuggle_a_request(client):
    for path in ("/api/v1/pods HTTP/1.1\r\nX: y", "/api/v1/pods?a=b c"):
        with pytest.raises(ValueError, match="end a request line"):
            await client.request("GET", path)
