"""Node selectors of pools: matching, and naming the requirement that leaves a pool without nodes. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from controlplane.model.cluster import LabelExpression, NodeSelector

_VALUES_SHOWN = 4


def requirements(selector: NodeSelector) -> tuple[LabelExpression, ...]:
    """`match_labels` and `match_expressions` as one list; all must hold."""
    labels = [LabelExpression(key=k, operator="In", values=[v]) for k, v in sorted(selector.match_labels.items())]
    return (*labels, *selector.match_expressions)


def meets(required: LabelExpression, labels: Mapping[str, str]) -> bool:
    """One requirement against a node's labels, as in a Kubernetes label selector (an absent key meets NotIn)."""
    value = labels.get(required.key)
    if required.operator == "In":
        return value is not None and value in required.values
    if required.operator == "NotIn":
        return value is None or value not in required.values
    return (value is not None) == (required.operator == "Exists")


def matches(required: Sequence[LabelExpression], labels: Mapping[str, str]) -> bool:
    """All requirements against a node's labels. No requirement selects every node."""
    return all(meets(item, labels) for item in required)


def nearest_miss(required: Sequence[LabelExpression], nodes: Iterable[Mapping[str, str]]) -> str:
    """Why a selector matches no node: the requirement that leaves none, and what the nodes left before it carry."""
    left = list(nodes)
    if not left:
        return "the cluster has no nodes"
    total = len(left)
    for item in required:
        passed = [labels for labels in left if meets(item, labels)]
        if not passed:
            held = Counter(labels[item.key] for labels in left if item.key in labels)
            seen = ", ".join(f"{value} ({count})" for value, count in sorted(held.items())[:_VALUES_SHOWN])
            more = f" and {len(held) - _VALUES_SHOWN} more values" if len(held) > _VALUES_SHOWN else ""
            found = f"they carry {seen}{more}" if held else "none of them carries that label"
            before = (
                f"{len(left)} of {total} nodes met the requirements before it"
                if len(left) < total
                else f"{total} looked at"
            )
            return f"no node meets {words(item)}; {before}; {found}"
        left = passed
    return "nodes match"


def words(required: LabelExpression) -> str:
    """A requirement in the notation of kubectl's label selectors."""
    if required.operator in {"In", "NotIn"}:
        verb = "in" if required.operator == "In" else "notin"
        if required.operator == "In" and len(required.values) == 1:
            return f"{required.key}={required.values[0]}"
        return f"{required.key} {verb} ({','.join(required.values)})"
    return required.key if required.operator == "Exists" else f"!{required.key}"
