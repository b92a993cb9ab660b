"""Import of the training predictor in a new process."""

import subprocess
import sys

from tests.perf.report import Emit, from_samples

RUNS = 9
IMPORT = """
import time
start = time.perf_counter()
import tuner.training
from tuner.training import batch
print(time.perf_counter() - start)
"""


def run(emit: Emit) -> None:
    samples = [
        float(subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True).stdout)
        for _ in range(RUNS)
    ]
    emit(from_samples("import-training", "import_s", samples, "s", 0.3, "lower"))
