"""A real API server keeps what the runtime relies on, and what the fake claims."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from controlplane.kube import CUSTOM_RESOURCE_DEFINITIONS, KubeClient, KubeError, load_access
from controlplane.testing.api_server_contract import PROBES, PROBES_DEFINITION, ApiServerContract

pytestmark = pytest.mark.cluster


class TestRealApiServer(ApiServerContract):
    @pytest.fixture
    async def client(self, cluster_env: dict[str, str]) -> AsyncIterator[KubeClient]:
        async with KubeClient(await load_access(cluster_env["KUBECONFIG"])) as kube:
            name = PROBES_DEFINITION["metadata"]["name"]
            await kube.apply(CUSTOM_RESOURCE_DEFINITIONS, PROBES_DEFINITION, name, field_manager="contract")
            async with asyncio.timeout(30):
                while True:  # the definition is served a moment after it is accepted
                    try:
                        await kube.list_page(PROBES, limit=1)
                        break
                    except KubeError:
                        await asyncio.sleep(0.1)
            yield kube
