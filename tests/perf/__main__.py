"""`python -m tests.perf NAME`: run one benchmark, one JSON line per figure on stdout, progress on stderr."""

import importlib
import sys
from pathlib import Path

from tests.perf.report import emit_json_line


def main(argv: list[str]) -> int:
    names = sorted(p.stem.removeprefix("bench_") for p in Path(__file__).parent.glob("bench_*.py"))
    wanted = argv[0].replace("-", "_") if argv else "list"
    if wanted == "list":
        sys.stdout.write("\n".join(n.replace("_", "-") for n in names) + "\n")
        return 0
    if wanted not in names:
        sys.stderr.write(f"no benchmark {argv[0]!r}; there are: {', '.join(names)}\n")
        return 2
    importlib.import_module(f"tests.perf.bench_{wanted}").run(emit_json_line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
