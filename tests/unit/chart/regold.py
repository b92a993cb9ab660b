"""Writes the golden renderings anew: `python -m tests.unit.chart.regold`. Read the diff before committing it."""

import sys

from tests.unit.chart.rendering import CASES, GOLDEN, find_helm, rendered


def main() -> int:
    """Write every golden file; 1 when there is no helm."""
    helm = find_helm()
    if helm is None:
        sys.stderr.write("no helm found: `make up` builds one, or put one on PATH\n")
        return 1
    GOLDEN.mkdir(exist_ok=True)
    for case in CASES:
        case.path.write_text(rendered(helm, case.values))
    return 0


if __name__ == "__main__":
    sys.exit(main())
