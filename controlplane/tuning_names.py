"""A tuning job by whatever a person calls it."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.catalog.loader import nearest
from controlplane.model.errors import UnknownName
from controlplane.model.tuning_records import TuningJobRecord

_SHOWN = 8


def job_among(word: str, known: Sequence[TuningJobRecord], where: str) -> TuningJobRecord:
    """The one of this name, or whose id begins so. Raises UnknownName with the ids that are meant, or the nearest names."""
    found = [job for job in known if job.name == word] or [job for job in known if word and job.id.startswith(word)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f"{job.id} ({job.tenant}/{job.name})" for job in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise UnknownName(
            f"more than one tuning job {word!r} in {where}", field="job", value=word, limit=ids + more,
            hint="name it by its id",
        )  # fmt: skip
    close = nearest(word, sorted({job.name for job in known}))
    raise UnknownName(
        f"no tuning job {word!r} in {where}",
        field="job",
        value=word,
        hint=f"did you mean {' or '.join(close)}?" if close else "`trimtab tune list` shows those there are",
    )
