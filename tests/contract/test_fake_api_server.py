"""The fake API server keeps what the runtime relies on."""

from collections.abc import AsyncIterator

import pytest

from controlplane.kube import ClusterAccess, KubeClient
from controlplane.testing import FakeApiServer
from controlplane.testing.api_server_contract import ApiServerContract


class TestFakeApiServer(ApiServerContract):
    @pytest.fixture
    async def client(self) -> AsyncIterator[KubeClient]:
        async with FakeApiServer() as server, KubeClient(ClusterAccess(server.url)) as kube:
            yield kube

    @pytest.fixture
    def namespace(self) -> str:
        return "contract"
