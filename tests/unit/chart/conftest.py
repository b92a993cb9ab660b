"""helm, where there is one."""

import pytest

from tests.unit.chart.rendering import find_helm


@pytest.fixture(scope="session")
def helm() -> str:
    found = find_helm()
    if found is None:
        pytest.skip("no helm: `make up` builds one, or put one on PATH")
    return found
