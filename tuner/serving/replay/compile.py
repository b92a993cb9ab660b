"""`python -m tuner.serving.replay.compile`: compile the replay ahead of its first use (at install, at image build)."""

from __future__ import annotations

import sys
import time

import numpy as np

from controlplane.model.plans import Provenance
from tuner.serving.replay.fleet import Fleet, Replica
from tuner.serving.replay.load import cache_folder
from tuner.serving.replay.requests import closed_loop
from tuner.serving.replay.rules import EngineRules
from tuner.serving.replay.run import simulate
from tuner.serving.step.table import StepTable


def main() -> int:
    sys.stderr.write("Compiling the serving replay (about a quarter of a minute, once for each version)\n")
    sys.stderr.flush()
    begin = time.monotonic()
    warm_up()
    sys.stderr.write(f"Compiled in {time.monotonic() - begin:.1f} s, kept in {cache_folder()}\n")
    return 0


def warm_up() -> None:
    """One small replay: loads the machine code, or makes it."""
    knots, zeros = np.array([1.0, 2.0]), np.ones(2)
    table = StepTable(
        context_tokens=knots, context_ms=zeros, decode_sequences=knots, decode_ms=zeros,
        context_attention_batch=knots, context_attention_new=knots, context_attention_past=knots,
        context_attention_ms=np.ones((2, 2, 2)), decode_attention_sequences=knots, decode_attention_kv=knots,
        decode_attention_ms=np.ones((2, 2)), provenance=Provenance(tier="roofline", source="two knots"),
    )  # fmt: skip
    simulate(Fleet(replicas=(Replica(table=table, rules=EngineRules()),)), closed_loop(1, 2, isl=4, osl=2))


if __name__ == "__main__":
    sys.exit(main())
