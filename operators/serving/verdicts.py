"""Why each accelerator choice was used or not, as the status keeps it. Pure."""

from __future__ import annotations

from collections import Counter

from controlplane.model.roles import SPLIT_ROLES
from controlplane.model.serving import ChoiceVerdict
from operators.placement import PoolVerdict
from operators.serving.draft import Draft

_VERDICTS_MAX = 64
_MESSAGE_MAX = 1_024

CHOSEN = "Chosen"
NOT_NEEDED = "NotNeeded"
BACKING_OFF = "BackingOff"


def verdicts(draft: Draft) -> list[ChoiceVerdict]:
    """One entry per used or untried choice, one per pool for a refused one.

    A choice that was not looked at this time keeps what was last found out about it, as long as it is the same choice:
    why a replica runs on the second choice stays readable long after it was placed.
    """
    used = Counter(replica.template.choice_index for replica in draft.kept if replica.template is not None)
    used.update(made.template.choice_index for made in draft.made)
    before = draft.snapshot.deployment.status
    same = before.observed_generation == draft.snapshot.deployment.metadata.generation
    outlook = draft.snapshot.outlook
    if outlook is not None and outlook.plan != before.plan:
        same = False  # other choices, or other ones first
    role = None if draft.snapshot.role == "Aggregated" else draft.snapshot.role
    out: list[ChoiceVerdict] = []
    for template in draft.snapshot.templates:
        index, accelerator = template.choice_index, template.accelerator
        refusal = draft.refusals.get(index)
        told = [v for v in before.choices if (v.role, v.index, v.accelerator) == (role, index, accelerator)]
        told = told if same else []
        told = [v for v in told if v.reason not in (CHOSEN, NOT_NEEDED, BACKING_OFF)]
        if used[index]:
            out.append(ChoiceVerdict(index=index, accelerator=accelerator, replicas=used[index], reason=CHOSEN))
        if refusal is not None:
            out += [_refused(index, accelerator, verdict) for verdict in refusal.verdicts]
        elif used[index]:
            # Why the others did not get this one; pointless once nobody had to take a worse one.
            out += told if any(used[later] for later in used if later > index) else []
        else:
            waiting = draft.back_off.get(template.revision)
            if waiting is not None and waiting.until_s > draft.now_s:
                message = waiting.message[:_MESSAGE_MAX]
                out.append(ChoiceVerdict(index=index, accelerator=accelerator, reason=BACKING_OFF, message=message))
            else:
                out += told or [ChoiceVerdict(index=index, accelerator=accelerator, reason=NOT_NEEDED)]
    if role is None:
        return out[:_VERDICTS_MAX]
    return [found.model_copy(update={"role": role}) for found in out[: _VERDICTS_MAX // len(SPLIT_ROLES)]]


def _refused(index: int, accelerator: str, verdict: PoolVerdict) -> ChoiceVerdict:
    message = f"{verdict.message}; {verdict.fix}" if verdict.fix else verdict.message
    return ChoiceVerdict(
        index=index,
        accelerator=accelerator,
        pool=verdict.pool,
        reason=str(verdict.reason),
        message=message[:_MESSAGE_MAX],
        needed=verdict.needed,
        free=verdict.free,
        largest_block=verdict.largest_block,
    )
