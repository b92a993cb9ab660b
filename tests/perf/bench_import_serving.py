"""Start of the predictor in CPU seconds: its import (the package and everything a prediction needs but the compiler), and
a new process's first answer, interpreter included, with tables and machine code on disk."""

import io
import json
import os
import subprocess
import sys
import tempfile
import time

from tests.perf.report import Emit, from_samples
from tuner.serving import batch
from tuner.serving.predict import Predictor

RUNS = 9
IMPORT = """
import time
start = time.process_time()
import tuner.serving
from tuner.serving import predict
print(time.process_time() - start)
"""
LINE = {
    "model": "llama-3.1-70b",
    "system": "h200_sxm",
    "backend": "vllm",
    "tp": 8,
    "isl": 1024,
    "osl": 256,
    "isl_range": 0.8,
    "osl_range": 0.8,
    "arrivals": {"closed": 64},
}
ANSWER = """
import io, json, sys, time
from tuner.serving import batch
from tuner.serving.predict import Predictor
sink = io.StringIO()
batch.run(io.BytesIO(sys.argv[1].encode()), sink, Predictor())
assert "error" not in json.loads(sink.getvalue()), sink.getvalue()
print(time.process_time())
"""


def run(emit: Emit) -> None:
    _seconds(IMPORT)  # writes the bytecode, as an installation does
    emit(from_samples("import-serving", "import_s", [_seconds(IMPORT) for _ in range(RUNS)], "s", 0.3, "lower"))
    with tempfile.TemporaryDirectory() as cache:
        line = json.dumps(LINE)
        _seconds(ANSWER, line, TRIMTAB_CACHE_DIR=cache)  # builds the table and, where it is missing, the machine code
        samples = [_seconds(ANSWER, line, TRIMTAB_CACHE_DIR=cache) for _ in range(RUNS)]
    emit(from_samples("import-serving", "first_answer_s", samples, "s", 1.5, "lower"))
    emit(
        from_samples(
            "import-serving", "lines_per_minute", [_lines_per_minute() for _ in range(3)], "1/min", None, "higher"
        )
    )


def _seconds(code: str, *arguments: str, **environment: str) -> float:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**kept, **environment},
    )
    return float(done.stdout)


def _lines_per_minute() -> float:
    """Lines of one batch once tables exist: one engine, 64 different loads."""
    text = "\n".join(json.dumps(LINE | {"arrivals": {"closed": clients}}) for clients in range(1, 65)).encode()
    predictor = Predictor()
    batch.run(io.BytesIO(text), io.StringIO(), predictor)
    start = time.process_time()
    done, _ = batch.run(io.BytesIO(text), io.StringIO(), predictor)
    return done / (time.process_time() - start) * 60
