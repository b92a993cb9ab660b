"""What a job on a cluster may not ask for."""

from __future__ import annotations

import pytest

from controlplane.model.errors import Unsupported
from controlplane.model.plans import Workload
from controlplane.model.tuning import Objective
from controlplane.model.tuning_job import CommandTarget, EngineTarget, TuningSpec
from controlplane.tuning_targets import check_for_cluster

TRACE = Workload(arrivals="trace", trace="/var/run/secrets/kubernetes.io/serviceaccount/token")


@pytest.mark.parametrize(
    "target", [EngineTarget(engine="openvino", model="/m.gguf"), CommandTarget(command=["train"], image="i:1")]
)
def test_no_file_of_the_installation_is_read_for_a_caller(target: EngineTarget | CommandTarget) -> None:
    spec = TuningSpec(target=target, objectives=[Objective(metric="output_tokens_per_s")], load=TRACE)
    with pytest.raises(Unsupported) as caught:
        check_for_cluster(spec, "team")
    assert caught.value.field == "load.trace" and caught.value.hint
    check_for_cluster(
        spec.model_copy(update={"load": TuningSpec.model_fields["load"].get_default(call_default_factory=True)}), "team"
    )
