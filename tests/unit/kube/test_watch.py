import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.kube import PODS, ClusterAccess, KubeClient, LineSplitter, ResponseTooLarge, Timeout
from controlplane.testing import FakeApiServer


@given(st.lists(st.binary(max_size=20).map(lambda b: b.replace(b"\n", b"")), max_size=20), st.data())
def test_lines_survive_any_cutting(lines, data):
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    splitter = LineSplitter(1_000)
    got = [line.rstrip(b"\n") for piece in pieces for line in splitter.feed([piece])]
    assert got == [line for line in lines if line]
    together = [line.rstrip(b"\n") for line in LineSplitter(1_000).feed(pieces)]
    assert together == got


@pytest.mark.parametrize("pieces", [[b"x" * 101], [b"x" * 60, b"x" * 60], [b"x" * 101 + b"\n"]])
def test_a_line_over_the_cap_is_refused(pieces):
    splitter = LineSplitter(100)
    with pytest.raises(ResponseTooLarge):
        splitter.feed(pieces)


async def test_an_object_of_1_4_mib_comes_through_whole():
    big = "y" * 1_468_006
    async with (
        FakeApiServer() as server,
        KubeClient(ClusterAccess(server.url)) as kube,
        kube.watch(PODS, resource_version="1") as stream,
    ):
        server.storage.create("/v1/pods", "default", {"metadata": {"name": "a", "annotations": {"x": big}}})
        lines = await stream.next_batch(5.0)
    assert lines is not None
    assert json.loads(lines[0])["object"]["metadata"]["annotations"]["x"] == big


@pytest.mark.parametrize("clean", [True, False])
async def test_the_end_of_a_watch_is_seen_clean_or_cut(clean):
    async with (
        FakeApiServer() as server,
        KubeClient(ClusterAccess(server.url)) as kube,
        kube.watch(PODS, resource_version="1") as stream,
    ):
        server.watches.end(clean=clean)
        assert await stream.next_batch(5.0) is None
        assert stream.cut is not clean


async def test_silence_is_reported():
    async with (
        FakeApiServer() as server,
        KubeClient(ClusterAccess(server.url)) as kube,
        kube.watch(PODS, resource_version="1") as stream,
    ):
        with pytest.raises(Timeout, match="silent"):
            await stream.next_batch(0.02)
