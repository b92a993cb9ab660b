"""The built-in samplers keep the contract that plug-ins are held to."""

import pytest

from controlplane.testing.sampler_contract import SamplerContract
from tuner.search.question import SAMPLERS


class TestBuiltIn(SamplerContract):
    @pytest.fixture(params=["default", "random", "grid", "tpe", "nsga2"])
    def factory(self, request):
        return SAMPLERS.get(request.param)
