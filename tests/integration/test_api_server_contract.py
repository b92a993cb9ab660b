"""A real API server keeps what the runtime relies on, and what the fake claims."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from controlplane.kube import KubeClient, load_access
from controlplane.testing.api_server_contract import PROBES_DEFINITION, ApiServerContract

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def probes(kubectl: Any) -> Iterator[None]:
    name = f"crd/{PROBES_DEFINITION['metadata']['name']}"
    kubectl.apply(PROBES_DEFINITION)
    kubectl("wait", "--for=condition=Established", name)
    yield
    kubectl("delete", name, "--wait=false")


class TestRealApiServer(ApiServerContract):
    @pytest.fixture
    async def client(self, cluster_env: dict[str, str], probes: None) -> AsyncIterator[KubeClient]:
        async with KubeClient(await load_access(cluster_env["KUBECONFIG"])) as kube:
            yield kube
