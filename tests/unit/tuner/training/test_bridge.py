"""The loader of Megatron Bridge's pages: what a row becomes, what is dropped and why."""

from __future__ import annotations

from pathlib import Path

from tuner.training.loaders.bridge import bridge
from tuner.training.loaders.tables import tables

HEAD = ("section,caption,System,#-GPUs,Precision,GBS,MBS,Sequence Length,TP,PP,CP,VP,EP,Tokens / sec / GPU,"
        "Model TFLOP / sec / GPU,FSDP,Model,GA,source,verified,flag")  # fmt: skip
PAGE = "Performance > 26.08 NeMo Container > Pre-Training Performance"


def written(folder: Path, *lines: str) -> Path:
    path = folder / "pages.csv"
    path.write_text("\n".join([HEAD, *lines]) + "\n", encoding="utf-8")
    return path


def test_rows_of_both_layouts(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        f"{PAGE} > Model: DeepSeekV3,,DGX-GB300,256,MXFP8,4096,1,4096,1,2,1,8,32,6000,1635,,,,a,yes,",
        f"{PAGE} > System: DGX-H100,,,256,FP8,2048,1,4096,2,8,1,4,32,1500,233,0,Qwen3_235B_a22B,,a,yes,",
    )
    found = tables(tmp_path)[0][0][1]
    assert [row.line for row in found.rows] == [row.line for row in bridge(path).rows] == [2, 3]
    deep, qwen = found.rows
    assert (deep.size, deep.pattern) == ("deepseek-v3", "DGX-GB300 mxfp8")
    assert deep.iteration_s == 4096 * 4096 / 256 / 6000
    model, plan = deep.case.model, deep.case.plan
    assert (model.kv_rank, model.value_dim, model.route_nodes, model.moe_layers) == (512, 128, 4, 58)
    assert (plan.pp, plan.vpp, plan.ep, plan.dp, plan.precision) == (2, 8, 32, 128, "mxfp8")
    assert (qwen.case.pools[0].gpu, qwen.case.plan.sp, qwen.case.plan.vpp) == ("h100-sxm-80gb", True, 4)


def test_what_is_dropped_says_why(tmp_path: Path) -> None:
    reasons = [reason for _, reason in bridge(written(
        tmp_path,
        f"{PAGE} > Model: Kimi_K2,,DGX-GB300,256,MXFP8,4096,1,4096,1,2,1,8,32,6000,1,,,,a,yes,",
        f"{PAGE} > Model: LLAMA3_70B,,DGX-GB300,64,BF16,128,2,8192,1,1,1,n/a,n/a,6000,1,64,,,a,yes,",
        f"{PAGE} > System: DGX-H100,,,256,FP8,128,1,4096,2,8,1,4,32,37556 (36108),1,0,Qwen3_235B_a22B,,a,yes,",
        "Performance > SFT Performance > Model: LLAMA3_70B,,DGX-GB300,64,BF16,128,2,8192,1,1,1,,,6000,1,,,,a,yes,",
        f"{PAGE} > Model: LLAMA3_70B,,DGX-X,64,BF16,128,2,8192,1,1,1,n/a,n/a,6000,1,,,,a,yes,",
    )).dropped]  # fmt: skip
    words = ("shape", "sharded", "precision", "pre-training", "system")
    assert len(reasons) == len(words)
    assert all(word in reason for word, reason in zip(words, reasons, strict=True))
