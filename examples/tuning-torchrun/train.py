"""A few steps of a tiny transformer with PyTorch DDP over gloo, started by torchrun; prints the time of one step.

The global batch is fixed: a smaller micro-batch means more accumulation, so every setting does the same work a step.
Needs PyTorch, which Trimtab does not: install it into an environment of your own.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

GLOBAL_BATCH = 16
SEQUENCE = 64
VOCABULARY = 512
WIDTH = 128
WARM_UP_STEPS = 2


class Tiny(nn.Module):
    """Two layers, 0.5 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, nhead=4, dim_feedforward=4 * WIDTH, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, num_layers=2)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.layers(self.embed(tokens)))
        return logits


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--micro-batch", type=int, required=True)
    options.add_argument("--threads", type=int, required=True)
    options.add_argument("--bucket-cap-mb", type=float, required=True)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--steps", type=int, default=8)
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    dist.init_process_group("gloo")
    parts, left = divmod(GLOBAL_BATCH, given.micro_batch * dist.get_world_size())
    if left or not parts:
        raise SystemExit(f"{GLOBAL_BATCH} sequences do not divide into micro-batches of {given.micro_batch}")
    model = DistributedDataParallel(Tiny(), bucket_cap_mb=given.bucket_cap_mb)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    times_s = [step(model, optimizer, given.micro_batch, parts) for _ in range(WARM_UP_STEPS + given.steps)]
    slowest = torch.tensor(statistics.median(times_s[WARM_UP_STEPS:]))
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    if dist.get_rank() == 0:
        print(f"step_time_ms={slowest.item() * 1e3:.3f}", flush=True)
        print(f"tokens_per_s={GLOBAL_BATCH * SEQUENCE / slowest.item():.1f}", flush=True)
    dist.destroy_process_group()


def step(model: DistributedDataParallel, optimizer: torch.optim.Optimizer, micro_batch: int, parts: int) -> float:
    """Seconds of one step; gradients are exchanged with its last micro-batch."""
    begun_s = time.perf_counter()
    optimizer.zero_grad()
    for part in range(parts):
        tokens = torch.randint(VOCABULARY, (micro_batch, SEQUENCE + 1))
        with contextlib.nullcontext() if part == parts - 1 else model.no_sync():
            logits = model(tokens[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            (loss / parts).backward()
    optimizer.step()
    return time.perf_counter() - begun_s


if __name__ == "__main__":
    main()
