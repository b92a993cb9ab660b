"""The fake API server keeps what the runtime relies on."""

import json
from collections.abc import AsyncIterator

import pytest

from controlplane.kube import SUBJECT_ACCESS_REVIEWS, TOKEN_REVIEWS, ClusterAccess, KubeClient, Resource
from controlplane.testing import FakeApiServer
from controlplane.testing.api_server_contract import ApiServerContract
from controlplane.testing.fake_api_server import FakeReviews


class TestFakeApiServer(ApiServerContract):
    @pytest.fixture
    async def client(self) -> AsyncIterator[KubeClient]:
        async with FakeApiServer() as server, KubeClient(ClusterAccess(server.url)) as kube:
            yield kube

    @pytest.fixture
    def namespace(self) -> str:
        return "contract"


async def test_reviews_are_answered_from_a_table() -> None:
    async with FakeApiServer() as server, KubeClient(ClusterAccess(server.url)) as kube:
        server.reviews = FakeReviews({"t": "ann"})

        async def status(resource: Resource, **spec: object) -> dict[str, object]:
            found: dict[str, object] = json.loads(await kube.create(resource, {"spec": spec}))["status"]
            return found

        assert await status(TOKEN_REVIEWS, token="t", audiences=["a"]) == {
            "authenticated": True,
            "user": {"username": "ann"},
            "audiences": ["a"],
        }
        assert await status(TOKEN_REVIEWS, token="u") == {"authenticated": False}
        assert await status(SUBJECT_ACCESS_REVIEWS, user="ann") == {"allowed": True}
        assert await status(SUBJECT_ACCESS_REVIEWS, user="bob") == {"allowed": False}
        assert len(server.storage.objects("authentication.k8s.io/v1/tokenreviews")) == 0
