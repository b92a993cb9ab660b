"""What the windows say: promote, roll back, or go on watching. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from controlplane.model.canary import Canary, CanaryMetric, CanaryStatus, RatioPct
from operators.serving.canary_stats import LEAST_WINDOWS, pairs_until, shown_more

_NAMES: dict[CanaryMetric, str] = {"ttft": "TTFT", "tpot": "TPOT"}
# A canary that was spared half of the load has not shown what it does under all of it.
_LEAST_LOAD = 0.5
# In so many windows, and for so long, requests came and waited and none was answered, while the others answered theirs.
_SILENT_WINDOWS, _SILENT_S = 6, 60.0
# Pages that are read in fewer windows than this share say nothing of the others.
_LEAST_PAGES = 0.5


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
    if _silent(status, canary):
        return Verdict("RollBack", "NoAnswers", f"{_unanswered(status)}, while the stable revision answers; {said}")
    missing = _missing(status, canary, found)
    if missing is None:
        better = any(ratio is not None and ratio.hi is not None and ratio.hi < 0 for ratio in found.values())
        return Verdict("Promote", "Better" if better else "NotWorse", said)
    if status.watched_seconds < canary.hold.most_seconds:
        return Verdict(None, missing[0], f"{missing[1]}; {said}")
    late = f"no verdict within hold.mostSeconds {canary.hold.most_seconds}: {missing[1]}; {said}"
    if missing[0] == "NoMetrics" or status.pages < _LEAST_PAGES * status.windows:
        read = f"; both metrics pages could be read in {status.pages} of {status.windows} windows"
        return Verdict("RollBack", "NoMetrics", late + read)
    if _mute(status):
        # It was asked and did not answer: whatever no evidence leads to, this is some.
        return Verdict("RollBack", "NoAnswers", f"{_unanswered(status)}; {late}")
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
    if _mute(status):
        return "NoAnswers", _unanswered(status)
    if not status.canary.requests or not status.stable.requests:
        lacking = "the canary" if status.stable.requests else "either revision"
        kept = lacking == "the canary" or status.mode == "InTurns"
        stay = "; clients that keep their connections stay where they are" if kept else ""
        came = "; its engine counts none" if not status.canary.asked and lacking == "the canary" else ""
        return "NoTraffic", f"no window with requests of {lacking}{came}{stay}"
    known = [ratio for ratio in found.values() if ratio is not None]
    if any(ratio.hi is None for ratio in known):
        return "FewWindows", _few(status, known)
    load = status.canary.per_replica / status.stable.per_replica if status.stable.per_replica else 0.0
    if load < _LEAST_LOAD:
        limit = f"{100 * _LEAST_LOAD:.0f} % are needed to judge it"
        return "UnequalLoad", f"the canary has {100 * load:.0f} % of the requests of a stable replica, {limit}"
    if any(ratio.hi is None or ratio.hi > rules.not_worse_than_pct for ratio in known):
        limit = f"verdict.notWorseThanPct {rules.not_worse_than_pct:g}"
        return "Undecided", f"the intervals are not below {limit}; {_outlook(status, canary)}"
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


def _few(status: CanaryStatus, known: Sequence[RatioPct]) -> str:
    """What an interval lacks, and why it does where time enough has passed."""
    needs, pairs = (
        f"an interval needs {LEAST_WINDOWS} windows with requests of both",
        min(one.sums.pairs for one in known),
    )
    if status.windows < LEAST_WINDOWS or pairs >= status.windows:
        return needs
    if status.mode == "InTurns":
        why = "more than a fifth of the first tokens were the other replica's: clients keep their connections, or requests wait longer than a turn"
    else:
        why = "one had no requests"
    return f"{needs}; in {status.windows - pairs} of {status.windows} {why}"


def _silent(status: CanaryStatus, canary: Canary) -> bool:
    windows = status.silent_windows
    return windows >= _SILENT_WINDOWS and windows * canary.hold.window_seconds >= _SILENT_S


def _mute(status: CanaryStatus) -> bool:
    """Whether requests came to the canary and it answers none, in contrast to one that nobody asked: by its own counters."""
    side = status.canary
    return status.silent_windows > 0 or (not (side.answered or side.requests) and (side.asked > 0 or side.waiting > 0))


def _unanswered(status: CanaryStatus) -> str:
    side = status.canary
    if not side.answered:
        return f"{side.asked:.0f} requests came to the canary and none got a first token ({side.waiting:.0f} wait)"
    return f"{side.waiting:.0f} requests wait at the canary, which has given no first token in {status.silent_windows} windows"


def _outlook(status: CanaryStatus, canary: Canary) -> str:
    """How long it takes at this spread, for a person."""
    expected_s, left_s = expected_seconds(status, canary), canary.hold.most_seconds - status.watched_seconds
    if expected_s is None:
        return "how long it takes is not known yet"
    if math.isinf(expected_s):
        more = "the figures are too near to it for any time"
    elif expected_s < 90:
        more = f"about {max(1.0, expected_s):.0f} s more at this spread"
    elif expected_s < 7200:
        more = f"about {expected_s / 60:.0f} min more at this spread"
    else:
        more = f"about {expected_s / 3600:.0f} h more at this spread"
    if left_s <= 0:  # the verdict has come: what it lacked, not what it waits for
        return more if math.isinf(expected_s) else f"{more} would have been needed"
    then = canary.verdict.on_no_evidence
    return (
        more if expected_s <= left_s else f"{more}, and in {max(0.0, left_s) / 60:.0f} min onNoEvidence: {then} decides"
    )


def expected_seconds(status: CanaryStatus, canary: Canary) -> float | None:
    """How much longer a verdict takes, if differences and spreads stay as they are: until one metric is shown worse, or
    else all are shown no worse. None: not known yet, or there is nothing to wait for. Infinite: the difference is the
    bound."""
    bound = canary.verdict.not_worse_than_pct
    worse: list[float] = []
    fine = [0.0]
    for metric in canary.verdict.metrics:
        ratio = _of(status, metric)
        if ratio is None or ratio.change is None:
            continue
        pairs = pairs_until(ratio.sums, bound)
        if pairs is None:
            return None
        # Windows without requests of both give no pair.
        windows = pairs * status.windows / ratio.sums.pairs
        (worse if ratio.change > bound else fine).append(windows)
    windows = min(worse) if worse else max(fine)
    if not windows or not status.windows:
        return None
    return windows * status.watched_seconds / status.windows


def _of(status: CanaryStatus, metric: CanaryMetric) -> RatioPct | None:
    return status.ttft_ratio_pct if metric == "ttft" else status.tpot_ratio_pct


def _words(metric: CanaryMetric, ratio: RatioPct | None) -> str:
    if ratio is None or ratio.change is None:
        return f"{_NAMES[metric]} unknown"
    said = f"{_NAMES[metric]} {ratio.change:+.1f} %"
    if ratio.lo is None or ratio.hi is None:
        return said
    return f"{said} (90 % interval {ratio.lo:+.1f} to {ratio.hi:+.1f} %)"
