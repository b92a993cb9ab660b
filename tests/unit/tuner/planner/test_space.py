from controlplane.catalog import load
from controlplane.model.cluster import FreeNodes
from controlplane.model.plans import Allowed
from tests.unit.tuner.planner.fakes import pool, request
from tuner.serving.planner.installation import Installation
from tuner.serving.planner.packing import fit_together, most_replicas
from tuner.serving.planner.space import shapes

CATALOG = load()


def degrees(**changes):
    found, lost = shapes(request(**changes), CATALOG, Installation())
    cases = [(s.case.tensor_parallel, s.case.pipeline_parallel, s.case.attention_data_parallel, s.case.moe_expert_parallel)
             for s in found]  # fmt: skip
    return cases, found, lost


def test_dense_models_get_tensor_and_pipeline_degrees_but_no_data_parallel_ranks():
    cases, found, _ = degrees()
    assert (8, 1, 1, 1) in cases and (4, 2, 1, 1) in cases
    assert all(dp == 1 and ep == 1 for _, _, dp, ep in cases)
    assert all(shape.units == shape.case.accelerators <= 32 for shape in found)


def test_experts_spread_over_all_ranks_or_none():
    cases, found, _ = degrees(model="deepseek-v3", pools=[pool(accelerator="h200-sxm-141gb", free=32)])
    assert (8, 1, 1, 1) in cases and (8, 1, 1, 8) in cases and (1, 1, 16, 16) in cases
    for shape in found:
        case = shape.case
        assert (
            case.moe_tensor_parallel * case.moe_expert_parallel == case.tensor_parallel * case.attention_data_parallel
        )


def test_trtllm_takes_the_whole_group_for_attention_data_parallel_ranks():
    cases, _, _ = degrees(
        model="deepseek-v3",
        pools=[pool(accelerator="h200-sxm-141gb", free=32)],
        allowed=Allowed(engines=["trtllm-serve"]),
    )
    assert all(tp == 1 for tp, _, dp, _ in cases if dp > 1)


def test_what_does_not_divide_says_so_with_the_nearest_that_does():
    _, _, lost = degrees(model="qwen2.5-0.5b")  # 14 heads
    said = [loss.message for loss in lost if loss.reason == "DoesNotDivide"]
    assert any("4 does not divide the 14 attention heads" in text and "nearest" in text for text in said)


def test_a_pool_too_small_for_a_replica_says_how_much_it_has():
    _, _, lost = degrees(pools=[pool(free=3)])
    said = next(loss for loss in lost if loss.reason == "PoolTooSmall" and loss.shape.case.tensor_parallel == 4)
    assert said.message == "one replica needs 4, pool h100 has 3 free"


def test_a_pod_takes_no_more_than_is_free_on_one_node():
    _, found, lost = degrees(pools=[pool(free=56, per_node=8, largest_block=7)])  # 8 nodes, 7 free on each
    assert max(shape.units for shape in found) == 4
    said = next(loss for loss in lost if loss.reason == "PoolTooSmall" and loss.shape.units == 8)
    assert said.message == "one pod needs 8 on one node, pool h100 has at most 7 free on one"
    _, whole, _ = degrees(pools=[pool(free=56, per_node=8, largest_block=8)])
    assert max(shape.units for shape in whole) > 8


def test_a_cpu_pod_takes_no_more_cores_than_one_node_has_free():
    cores = pool("cpus", "cpu-x86", free=16, per_node=8, largest_block=2)
    _, found, _ = degrees(pools=[cores], allowed=Allowed(engines=["openvino"]))
    assert sorted(shape.units for shape in found) == [1, 2]


def test_engines_that_cannot_run_on_an_accelerator_are_lost_with_the_reason():
    _, found, lost = degrees(pools=[pool("cpus", "cpu-x86", free=8)], allowed=Allowed())
    assert {shape.case.engine for shape in found} == {"openvino"}
    assert any(loss.reason == "EngineNotOnAccelerator" and "vllm runs on gpu" in loss.message for loss in lost)


def test_cpu_replicas_take_whole_cores():
    _, found, _ = degrees(pools=[pool("cpus", "cpu-x86", free=8)], allowed=Allowed(engines=["openvino"]))
    assert sorted(shape.units for shape in found) == [1, 2, 4, 8]
    assert all(shape.case.cores == shape.units for shape in found)


def test_precision_only_from_the_allow_list():
    _, own, _ = degrees()
    assert {shape.precision.choice_quantization for shape in own} == {None}
    _, more, _ = degrees(allowed=Allowed(engines=["vllm"], quantizations=["bf16", "fp8"]))
    assert {shape.precision.choice_quantization for shape in more} == {None, "fp8"}
    assert {shape.case.gemm_quant for shape in more} == {None, "fp8"}
    _, only, _ = degrees(allowed=Allowed(engines=["vllm"], quantizations=["fp8"], kv_quantizations=["fp8"]))
    assert {(shape.precision.choice_quantization, shape.case.kv_quant) for shape in only} == {("fp8", "fp8")}


def test_a_format_an_engine_lacks_is_lost_with_the_reason():
    _, found, lost = degrees(allowed=Allowed(engines=["trtllm-serve"], quantizations=["fp8"]))
    assert not found
    assert any(loss.reason == "PrecisionNotOffered" and "from the checkpoint" in loss.message for loss in lost)


def test_the_order_is_fixed():
    first, second = degrees()[1], degrees()[1]
    assert [shape.key for shape in first] == [shape.key for shape in second] == sorted(shape.key for shape in first)


def test_replicas_stay_within_the_nodes_that_are_known():
    cases, _, _ = degrees(pools=[pool("cards", "l40", free=8)], allowed=Allowed(engines=["openvino", "vllm"]))
    assert cases  # an accelerator without a known node: one per node, and engines that span nodes
    cases, found, _ = degrees(pools=[pool("cards", "l40", free=8, per_node=4)])
    assert max(tp for tp, pp, _, _ in cases if pp == 1) <= 16
    assert all(shape.case.accelerators_per_node == 4 for shape in found)


def test_pods_are_counted_node_by_node():
    scattered = [FreeNodes(free=8, nodes=1), FreeNodes(free=5, nodes=4), FreeNodes(free=1, nodes=3)]
    _, found, lost = degrees(pools=[pool(free=31, per_node=8, free_nodes=scattered)])
    most = {shape.case.tensor_parallel: most_replicas(shape) for shape in found if shape.case.pipeline_parallel == 1}
    assert most == {1: 31, 2: 12, 4: 6, 8: 1}  # of their sum alone: 31, 15, 7, 3
    sixteen = [loss for loss in lost if loss.reason == "PoolTooSmall" and loss.shape.units == 16]
    assert sixteen and "needs 2 pods of 8, pool h100 has room on its nodes for fewer" in sixteen[0].message
    two, eight = (next(one for one in found if one.units == units) for units in (2, 8))
    assert fit_together([(two, 8), (eight, 1)]) and not fit_together([(two, 9), (eight, 1)])
