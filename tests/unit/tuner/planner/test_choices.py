"""Every choice the planner can make is one the operator accepts: degrees, settings and memory, for all engines."""

import pytest

from controlplane.catalog import load
from controlplane.model.errors import TrimtabError
from controlplane.model.plans import Allowed, Lengths, Workload
from controlplane.model.resource import ObjectMeta
from controlplane.model.serving import ServingDeployment, ServingDeploymentSpec, Slo
from operators.serving.validate_choice import check_engine, check_shape
from tests.unit.tuner.planner.fakes import pool, request
from tuner.serving.planner import Installation
from tuner.serving.planner.evaluator import Evaluator
from tuner.serving.planner.load import draw
from tuner.serving.planner.space import shapes
from tuner.serving.planner.standard import StandardPieces

CATALOG = load()
POOLS = [
    pool("h100", "h100-sxm-80gb", 16),
    pool("b200", "b200-sxm-180gb", 16),
    pool("l40s", "l40s", 8, per_node=4),
    pool("mi300", "mi300x-192gb", 8),
    pool("cpus", "cpu-x86", 16),
]


@pytest.mark.parametrize(
    ("model", "quantizations"),
    [("llama-3.1-70b", []), ("llama-3.1-70b", ["bf16", "fp8"]), ("deepseek-v3", []), ("qwen3-30b-a3b", []),
     ("gpt-oss-120b", []), ("qwen2.5-0.5b", []), ("tiny-random-llama", [])],
)  # fmt: skip
def test_the_operator_accepts_every_choice(model, quantizations):
    asked = request(
        model=model,
        pools=POOLS,
        allowed=Allowed(quantizations=quantizations),
        workload=Workload(rate_per_second=1.0, input=Lengths(tokens=1000), output=Lengths(tokens=100)),
    )
    draws = draw(asked.workload, 0)
    pieces = StandardPieces(router="random", slo=Slo(), draws=draws)
    evaluator = Evaluator(request=asked, draws=draws, pieces=pieces, longest_tokens=1100)
    found, _ = shapes(asked, CATALOG, Installation())
    weighed = 0
    for shape in found:
        try:
            if evaluator.room(shape).short_bytes:
                continue
        except TrimtabError:
            continue  # a format the accelerator has no arithmetic for: told as a loss
        for scheduler in pieces.schedulers(shape):
            choice = evaluator.usual(shape).with_scheduler(scheduler).choice()
            deployment = ServingDeployment(
                metadata=ObjectMeta(name="x"),
                spec=ServingDeploymentSpec.model_validate(
                    {"model": {"name": model, "source": "image:/model"}, "explicit": {"choices": [choice]}}
                ),
            )
            errors = check_engine(deployment, choice, shape.accelerator, shape.engine, None, "choice")
            errors += check_shape(choice, shape.accelerator, shape.engine, shape.model, "choice")
            assert not errors, (shape.label, choice, [str(error) for error in errors])
            weighed += 1
    assert weighed > 0
