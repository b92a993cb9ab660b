"""What the windows say: promote, roll back, or go on watching. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from controlplane.model.canary import Canary, CanaryMetric, CanaryStatus, RatioPct
from operators.serving.canary_stats import LEAST_WINDOWS, shown_more

_NAMES: dict[CanaryMetric, str] = {"ttft": "TTFT", "tpot": "TPOT"}
# A canary that was spared half of the load has not shown what it does under all of it.
_LEAST_LOAD = 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """`word`: what follows; None: go on. `reason` and `message` say why, or what is missing."""

    word: Literal["Promote", "RollBack"] | None
    reason: str
    message: str


def verdict(status: CanaryStatus, canary: Canary) -> Verdict:
    """What follows from all windows so far."""
    rules, said = canary.verdict, summary(status, canary)
    found = {metric: _of(status, metric) for metric in rules.metrics}
    more_errors = shown_more(status.canary.errors, status.canary.ended, status.stable.errors, status.stable.ended)
    if more_errors is not None and more_errors > rules.most_more_errors_pct:
        limit = f"verdict.mostMoreErrorsPct {rules.most_more_errors_pct:g}"
        return Verdict(
            "RollBack", "MoreErrors", f"at least {more_errors:.1f} points more requests fail, {limit}; {said}"
        )
    for metric, ratio in found.items():
        if ratio is not None and ratio.lo is not None and ratio.lo > rules.not_worse_than_pct:
            limit = f"verdict.notWorseThanPct {rules.not_worse_than_pct:g}"
            return Verdict("RollBack", "Worse", f"{_NAMES[metric]} is shown worse than by {limit}; {said}")
    missing = _missing(status, canary, found)
    if missing is None:
        better = any(ratio is not None and ratio.hi is not None and ratio.hi < 0 for ratio in found.values())
        return Verdict("Promote", "Better" if better else "NotWorse", said)
    if status.watched_seconds < canary.hold.most_seconds:
        return Verdict(None, missing[0], f"{missing[1]}; {said}")
    late = f"no verdict within hold.mostSeconds {canary.hold.most_seconds}: {missing[1]}; {said}"
    if missing[0] == "NoMetrics":
        return Verdict("RollBack", "NoMetrics", late)
    return Verdict(rules.on_no_evidence, "NoEvidence", late)


def summary(status: CanaryStatus, canary: Canary) -> str:
    """The figures in one line."""
    parts = [_words(metric, _of(status, metric)) for metric in canary.verdict.metrics]
    windows = f"{status.windows} {'pairs of turns' if status.mode == 'InTurns' else 'windows'}"
    counts = f"{status.canary.requests:.0f} requests of the canary, {status.stable.requests:.0f} of the stable revision"
    if status.canary.ended or status.stable.ended:
        counts += f"; {status.canary.errors:.0f} and {status.stable.errors:.0f} failed"
    return f"{', '.join(parts)}; {windows} of {canary.hold.window_seconds} s, {counts}"


def _missing(
    status: CanaryStatus, canary: Canary, found: dict[CanaryMetric, RatioPct | None]
) -> tuple[str, str] | None:
    """What a promotion still lacks."""
    rules = canary.verdict
    if status.windows and not status.pages:
        return "NoMetrics", "the engines' metrics pages cannot be read"
    for metric, ratio in found.items():
        if ratio is None and status.canary.requests and status.stable.requests:
            return "NoMetrics", f"the engines report no {_NAMES[metric]}"
    if not status.canary.requests or not status.stable.requests:
        lacking = "the canary" if status.stable.requests else "either revision"
        kept = lacking == "the canary" or status.mode == "InTurns"
        stay = "; clients that keep their connections stay where they are" if kept else ""
        return "NoTraffic", f"no window with requests of {lacking}{stay}"
    known = [ratio for ratio in found.values() if ratio is not None]
    if any(ratio.hi is None for ratio in known):
        return "FewWindows", f"an interval needs {LEAST_WINDOWS} windows with requests of both"
    load = status.canary.per_replica / status.stable.per_replica if status.stable.per_replica else 0.0
    if load < _LEAST_LOAD:
        limit = f"{100 * _LEAST_LOAD:.0f} % are needed to judge it"
        return "UnequalLoad", f"the canary has {100 * load:.0f} % of the requests of a stable replica, {limit}"
    if any(ratio.hi is None or ratio.hi > rules.not_worse_than_pct for ratio in known):
        return "Undecided", f"the intervals are not below verdict.notWorseThanPct {rules.not_worse_than_pct:g}"
    if rules.must_be_better and not any(ratio.hi is not None and ratio.hi < 0 for ratio in known):
        return "Undecided", "no metric is shown better, as verdict.mustBeBetter asks"
    ended, stable_ended = status.canary.ended, status.stable.ended
    if ended and stable_ended:
        more = 100 * (status.canary.errors / ended - status.stable.errors / stable_ended)
        if more > rules.most_more_errors_pct:
            return (
                "Undecided",
                f"{more:.1f} points more requests fail, verdict.mostMoreErrorsPct {rules.most_more_errors_pct:g}",
            )
    if status.watched_seconds < canary.hold.least_seconds:
        return "Watching", f"watched for {status.watched_seconds:.0f} s, hold.leastSeconds {canary.hold.least_seconds}"
    return None


def _of(status: CanaryStatus, metric: CanaryMetric) -> RatioPct | None:
    return status.ttft_ratio_pct if metric == "ttft" else status.tpot_ratio_pct


def _words(metric: CanaryMetric, ratio: RatioPct | None) -> str:
    if ratio is None or ratio.change is None:
        return f"{_NAMES[metric]} unknown"
    said = f"{_NAMES[metric]} {ratio.change:+.1f} %"
    if ratio.lo is None or ratio.hi is None:
        return said
    return f"{said} (90 % interval {ratio.lo:+.1f} to {ratio.hi:+.1f} %)"
