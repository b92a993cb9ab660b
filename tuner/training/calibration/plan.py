"""What is fitted on what: priors of every constant, tables and their weights, and the groups that are held out."""

from __future__ import annotations

from tuner.training.calibration.fit import Prior

# How many rows each table counts as. Derived rows (vtrain_single) count as a tenth; the H100 tables pin one class.
# PTD-P, Korthikanti, MegaScale, torchtitan, AMP and Sailor rows are never fitted.
WEIGHTS: dict[str, float] = {
    "vtrain_single": 71.0,
    "vtrain_multi": 71.0,
    "fsdp": 60.0,
    "h100_weak": 9.0,
    "h100_strong": 8.0,
    "zerobubble": 12.0,
    "vocab": 12.0,
}
# Left out together when a table is judged: whole sizes, or whole (t, d, p) patterns where rows are derived.
HELD_OUT_BY: dict[str, str] = {name: "pattern" if name == "vtrain_single" else "size" for name in WEIGHTS}
PRIORS: dict[str, Prior] = {
    "shared.launch_s": Prior(28e-6, 0.3),
    "shared.collective_launch_s": Prior(30e-6, 0.35),
    "shared.p2p_sync_s": Prior(0.4e-3, 0.5),
    "shared.gemm_saturation": Prior(0.8, 0.35),
    "shared.softmax_traffic": Prior(1.3, 0.3),
    "shared.contention": Prior(0.5, 0.4, 1.0),
    "accelerators.ampere.gemm": Prior(0.82, 0.1, 0.95),
    "accelerators.ampere.memory": Prior(0.85, 0.1, 0.95),
    "accelerators.ampere.attention": Prior(0.38, 0.3, 0.95),
    "accelerators.hopper.gemm": Prior(0.72, 0.1, 0.95),
    "accelerators.hopper.memory": Prior(0.85, 0.1, 0.95),
    "accelerators.hopper.attention": Prior(0.3, 0.3, 0.95),
    "links.nvlink": Prior(0.7, 0.2, 0.95),
    "links.infiniband": Prior(0.85, 0.1, 0.97),
    "links.roce": Prior(0.75, 0.15, 0.95),
}
