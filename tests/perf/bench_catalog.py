"""Time to read the catalogue from its files: in new processes, interpreter and imports not counted."""

import subprocess
import sys

from tests.perf.report import Emit, from_samples

RUNS = 15
CODE = """
import time
start = time.perf_counter()
import controlplane.catalog as catalog
imported = time.perf_counter()
catalog.load()
print(time.perf_counter() - imported, imported - start)
"""


def run(emit: Emit) -> None:
    loads, imports = [], []
    for _ in range(RUNS):
        out = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True).stdout
        load_s, import_s = map(float, out.split())
        loads.append(load_s * 1e3)
        imports.append(import_s * 1e3)
    emit(from_samples("catalog", "load_ms", loads, "ms", 50, "lower"))
    emit(from_samples("catalog", "import_ms", imports, "ms", None, "lower"))
