"""Whether client and server tell the same story of a run. A run where they do not is no measurement. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.measure.counters import Served
from tuner.measure.definitions import Metrics, span, tpot_s
from tuner.measure.loadgen.job import Sample


@dataclass(frozen=True, slots=True)
class Bands:
    """What counts as agreement. The server's times begin after HTTP was read and end before the answer is written, so
    the client's are longer by `slack_ms` at most, or by these factors."""

    ttft: tuple[float, float] = (0.8, 2.0)
    tpot: tuple[float, float] = (0.7, 1.4)
    occupancy: tuple[float, float] = (0.7, 1.15)
    slack_ms: float = 10.0
    tokens_pct: float = 1.0


@dataclass(frozen=True, slots=True)
class Compared:
    """Means in ms over all requests, warm-up included, as the server counts them. `occupancy`: share of a closed
    loop's clients that the server had a request of; None in an open loop."""

    client_ttft_ms: float | None
    server_ttft_ms: float | None
    client_tpot_ms: float | None
    server_itl_ms: float | None
    occupancy: float | None
    client_tokens: int
    server_tokens: float | None
    disagreements: tuple[str, ...]


def compare(samples: Sequence[Sample], served: Served, clients: int | None, bands: Bands) -> Compared:
    """`samples`: of everything that was sent between the two readings of the server's counters. TTFT counts from the
    send here: what passes before it is the client's own."""
    whole = [
        sample for sample in samples if not sample.error and sample.first_s is not None and sample.sent_s is not None
    ]
    firsts = [
        sample.first_s - sample.sent_s for sample in whole if sample.first_s is not None and sample.sent_s is not None
    ]
    tpots = [(tpot, sample.output_tokens - 1) for sample in whole if (tpot := tpot_s(sample)) is not None]
    gaps = sum(count for _, count in tpots)
    client_ttft = _ms(sum(firsts) / len(firsts)) if firsts else None
    client_tpot = _ms(sum(tpot * count for tpot, count in tpots) / gaps) if gaps else None
    server_ttft = _ms(served.ttft_mean_s)
    server_itl = _ms(served.itl_mean_s)
    tokens = sum(sample.output_tokens for sample in samples)
    occupancy = None
    if clients is not None and whole and served.e2e_mean_s is not None:
        occupancy = len(whole) / max(span(samples), 1e-9) * served.e2e_mean_s / clients
    found = [
        _ratio("TTFT", client_ttft, server_ttft, bands.ttft, bands.slack_ms),
        _ratio("time per token", client_tpot, server_itl, bands.tpot, bands.slack_ms / 10),
    ]
    if occupancy is not None and not bands.occupancy[0] <= occupancy <= bands.occupancy[1]:
        low, high = bands.occupancy
        found.append(f"{clients} clients kept the server {occupancy:.2f} occupied (believed: {low:g} to {high:g})")
    if served.output_tokens is not None and not any(sample.error for sample in samples):
        off_pct = abs(served.output_tokens - tokens) / max(tokens, 1) * 100
        if off_pct > bands.tokens_pct:
            found.append(f"the server counts {served.output_tokens:.0f} tokens, the client {tokens}")
    return Compared(
        client_ttft, server_ttft, client_tpot, server_itl, occupancy, tokens, served.output_tokens,
        tuple(text for text in found if text),
    )  # fmt: skip


def as_metrics(compared: Compared) -> Metrics:
    """Kept beside the figures they vouch for."""
    return {
        "server_ttft_mean_ms": compared.server_ttft_ms,
        "server_itl_mean_ms": compared.server_itl_ms,
        "occupancy": compared.occupancy,
    }


def _ratio(name: str, client: float | None, server: float | None, band: tuple[float, float], slack: float) -> str:
    """Unknown on either side is no disagreement: there is nothing to compare (an output of one token has no gaps)."""
    if client is None or server is None:
        return ""
    low, high = server * band[0] - slack, server * band[1] + slack
    if low <= client <= high:
        return ""
    return f"{name}: client {client:.2f} ms, server {server:.2f} ms (believed: {max(low, 0):.2f} to {high:.2f})"


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else value_s * 1e3
