"""The same program under different hash seeds: sets and dicts of words then come in different orders."""

import subprocess
import sys


def outputs(code: str, seeds: tuple[str, ...] = ("0", "1")) -> set[str]:
    """What `code` prints under each seed; one element where the order of a set decides nothing."""
    return {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in seeds
    }
