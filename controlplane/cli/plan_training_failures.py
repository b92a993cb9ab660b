"""What failures make of the winner, for people."""

from __future__ import annotations

from typing import Any

_RULE = ("rule", "one node lost", "standing still", "survives", "keeps")


def failures_text(found: dict[str, Any], lost: list[dict[str, Any]]) -> str:
    """Share of time that trains, checkpoints, spares, the elastic rules, and new plans with a node fewer."""
    rate = f"{1000 * found['failures_per_node_day']:.3g} per 1000 node-days ({found['source']})"
    lines = [f"Failures (a model): {rate} on {found['nodes']} nodes"]
    if found["mtbf_s"] is None:
        return lines[0] + ": none"
    lines += [
        f"  one in {found['mtbf_s'] / 3600:.3g} h; {100 * found['ettr']:.2f} % of the time trains, "
        f"{found['tokens_per_s']:,.0f} tokens/s of it stay",
        f"  checkpoint of {found['checkpoint_bytes'] / 1e9:,.0f} GB every {found['checkpoint_interval_s'] / 60:.3g} min "
        f"({found['checkpoint_s']:.3g} s at an assumed {found['assumed']['checkpoint_gb_s_per_node']:g} GB/s per node)",
        f"  {found['spare_nodes']} spare nodes suffice {100 * found['assumed']['spares_suffice_with']:g} % of the time "
        f"(repair in an assumed {found['assumed']['repair_s'] / 3600:g} h)",
        "  Going on without the node, estimates:",
    ]
    rows = [_RULE, *(_rule(rule) for rule in found["rules"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.append("  Planned anew without one node:")
    for item in lost:
        said = item.get("error") or f"{item['iteration_s']:.4g} s, {item['slowdown']:.3g} times as long: {item['plan']}"
        lines.append(f"    {item['pool']}: {said}")
    return "\n".join(line.rstrip() for line in lines)


def _rule(rule: dict[str, Any]) -> tuple[str, ...]:
    slow, still = rule["slowdown_one_lost"], rule["recovery_s"]
    return (
        rule["rule"],
        "-" if slow is None else f"{slow:.3g} times as long",
        "-" if still is None else f"{still:.3g} s",
        f"{rule['tolerates']} nodes",
        f"{100 * rule['share']:.2f} %",
    )
