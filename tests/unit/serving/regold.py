"""Writes the golden manifests anew: `python -m tests.unit.serving.regold`. Read the diff before committing it."""

from tests.unit.serving.cases import GOLDEN, GOLDENS


def main() -> None:
    """Write every golden file and remove those that no case makes."""
    GOLDEN.mkdir(exist_ok=True)
    for stale in set(GOLDEN.glob("*.yaml")) - {case.path for case in GOLDENS}:
        stale.unlink()
    for case in GOLDENS:
        case.path.write_text(case.text())


if __name__ == "__main__":
    main()
