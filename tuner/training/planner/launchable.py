"""What a framework and its version can be started with: the default space of the search. `theoretical`: the rest."""

from __future__ import annotations

from controlplane.catalog.frameworks import THEORETICAL, TrainingFramework, training_frameworks
from controlplane.model.errors import Unsupported

Launchable = TrainingFramework


def launchable(framework: str) -> Launchable:
    """Limits of a framework. Raises Unsupported where no table says what it can launch."""
    table = training_frameworks()
    if framework not in table or framework == THEORETICAL:
        raise Unsupported(
            "no table says what it can launch", field="framework", value=framework,
            limit=", ".join(sorted(set(table) - {THEORETICAL})),
        )  # fmt: skip
    return table[framework]


def theoretical() -> Launchable:
    """What the model can cost, whether or not one program does all of it."""
    return training_frameworks()[THEORETICAL]
