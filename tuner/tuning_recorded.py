"""A bundle of a tuning job read back: what was asked, decided and measured. Bounded, and nothing of it is unpacked."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from controlplane.model.errors import InvalidSpec
from controlplane.model.tuning import Measurement, Setting, TrialPurpose, Verdict
from controlplane.model.tuning_decision import TuningDecision
from controlplane.model.tuning_records import MeasuredAttempt, TuningJobRecord
from controlplane.model.tuning_stored import stored_spec

_FILE_BYTES_MAX = 512 * 2**20
_PART_BYTES_MAX = 64 * 2**20
_PARTS_MAX = 20_000
_WANTED = ("job.json", "decision.json", "measurements.json", "settings.json", "trials.csv")
_LIST = TypeAdapter(list[MeasuredAttempt])
_SETTING: TypeAdapter[Setting] = TypeAdapter(Setting)


@dataclass(frozen=True, slots=True)
class RecordedJob:
    """`purposes`, `settings` and `canonical` by trial number."""

    job: TuningJobRecord
    decision: TuningDecision
    measured: tuple[MeasuredAttempt, ...]
    purposes: dict[int, TrialPurpose]
    settings: dict[int, Setting]
    canonical: dict[int, str]

    def believed(self) -> list[MeasuredAttempt]:
        """Measurements that stand, in full: short runs only said where not to go on."""
        return [one for one in self.measured if one.verdict is Verdict.OK and one.measurement.share == 1]

    def confirmed(self, *, baseline: bool = False) -> list[Measurement]:
        """Confirmation runs of the winner, or of the configuration in use."""
        if baseline:
            wanted = {number for number, purpose in self.purposes.items() if purpose is TrialPurpose.BASELINE}
        else:
            best = None if self.decision.best is None else self.canonical.get(self.decision.best.number or 0)
            wanted = {
                number
                for number, purpose in self.purposes.items()
                if purpose is TrialPurpose.CONFIRM and self.canonical[number] == best
            }
        return [one.measurement for one in self.believed() if one.number in wanted]


def read_bundle(path: Path) -> RecordedJob:
    """Raises InvalidSpec with the file and what is wrong with it."""
    parts = _parts(path)
    for name in _WANTED:
        if name not in parts:
            raise InvalidSpec(f"holds no {name}: it is no bundle of a tuning job", field=str(path), hint="`trimtab tune bundle JOB` writes one")  # fmt: skip
    try:
        rows = list(csv.DictReader(io.StringIO(parts["trials.csv"].decode())))
        return RecordedJob(
            job=_job(_json(parts["job.json"])),
            decision=TuningDecision.model_validate(_json(parts["decision.json"])),
            measured=tuple(_LIST.validate_python(_json(parts["measurements.json"]))),
            settings=dict(_settings(_json(parts["settings.json"]))),
            purposes={int(row["trial"]): TrialPurpose(row["purpose"]) for row in rows},
            canonical={int(row["trial"]): row["canonical"] for row in rows},
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidSpec(first["msg"], field=f"{path}: {'.'.join(map(str, first['loc']))}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidSpec(f"is broken: {error}"[:300], field=str(path)) from None


def read_runs(path: Path, *, baseline: bool = False) -> tuple[list[Measurement], TuningJobRecord | None]:
    """Runs of one configuration: a bundle's confirmation runs, a JSON file with a list of measurements, or what vLLM's
    benchmark saved."""
    if path.suffix not in {".json", ".jsonl"}:
        found = read_bundle(path)
        return found.confirmed(baseline=baseline), found.job
    _check_size(path)
    body = path.read_bytes()
    if b'"measurement"' not in body:
        from tuner.measure.import_vllm_bench import measurements  # noqa: PLC0415 - numpy

        return measurements(path), None
    try:
        rows = _LIST.validate_python(_json(body))
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(f"is no list of measurements: {error}"[:300], field=str(path), limit="as measurements.json of a bundle") from None  # fmt: skip
    return [one.measurement for one in rows if one.verdict is Verdict.OK and one.measurement.share == 1], None


def _parts(path: Path) -> dict[str, bytes]:
    _check_size(path)
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for count, member in enumerate(tar):
                if count > _PARTS_MAX:
                    raise InvalidSpec("holds too many files", field=str(path), limit=str(_PARTS_MAX))
                name = member.name.rpartition("/")[2]
                if name not in _WANTED or not member.isfile() or member.name.count("/") != 1:
                    continue
                if member.size > _PART_BYTES_MAX:
                    raise InvalidSpec("is too large", field=f"{path}: {name}", value=member.size, limit=f"{_PART_BYTES_MAX} bytes")  # fmt: skip
                body = tar.extractfile(member)
                found[name] = b"" if body is None else body.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InvalidSpec(f"cannot be read as a bundle: {error}"[:300], field=str(path)) from None
    return found


def _check_size(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InvalidSpec(f"cannot be read: {error.strerror}", field=str(path)) from None
    if size > _FILE_BYTES_MAX:
        raise InvalidSpec("is too large", field=str(path), value=size, limit=f"{_FILE_BYTES_MAX} bytes")


def _job(document: dict[str, Any]) -> TuningJobRecord:
    return TuningJobRecord.model_validate(document | {"spec": stored_spec(document["spec"])})


def _settings(rows: object) -> Iterator[tuple[int, Setting]]:
    if not isinstance(rows, dict):
        raise ValueError("settings.json is no object")
    for number, setting in rows.items():
        yield int(number), _SETTING.validate_python(setting)


def _json(body: bytes) -> Any:
    return json.loads(body)
