"""How a planned mix is split over its choices: which one lacks replicas, and which replicas are beyond its share. Pure.

The prediction of a mix is for its own split: two on one accelerator and three on another are not five on the first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from operators.serving.render import ReplicaTemplate
from operators.serving.replicas import Replica

Shares = Mapping[int, int]  # replicas by position of the choice; empty: any split will do
Place = tuple[str, int]  # revision and slot of a replica


def wanted_first(
    templates: Sequence[ReplicaTemplate], shares: Shares, counts: Mapping[int, int]
) -> list[ReplicaTemplate]:
    """The choices in the order in which the next replica tries them: those below their share, then all others. Where a
    pool of the mix is taken, the rest of the mix and then what the plan falls back to carries on."""
    below = [template for template in templates if counts.get(template.choice_index, 0) < _share(shares, template)]
    return [*below, *(template for template in templates if template not in below)]


def counts_of(replicas: Iterable[Replica]) -> Counter[int]:
    """Replicas of today's choices, by position of the choice."""
    return Counter(replica.template.choice_index for replica in replicas if replica.template is not None)


def standings(replicas: Sequence[Replica], shares: Shares) -> dict[Place, int]:
    """How far from where it should be each replica runs: 0 is as good as can be. Without shares the position of its choice;
    with shares all within theirs are equals, those that answer and the oldest first."""
    if not shares:
        return {(replica.revision, replica.slot): replica.choice for replica in replicas}
    out: dict[Place, int] = {}
    seen: Counter[int] = Counter()
    for replica in sorted(replicas, key=lambda one: (not one.ready, one.created_s, one.slot)):
        seen[replica.choice] += 1
        beyond = seen[replica.choice] > shares.get(replica.choice, 0)
        out[replica.revision, replica.slot] = 1 + replica.choice if beyond else 0
    return out


def _share(shares: Shares, template: ReplicaTemplate) -> int:
    return shares.get(template.choice_index, 0)
