"""Measured runs of serving engines: the `silicon_sample.csv` schema, read and repaired.

The sample ships inside the aiconfigurator-core wheel (Apache-2.0): mean TTFT and TPOT of one configuration at one
concurrency per row, from InferenceX exports and vendor measurements. It has known defects; each repair is one small
function here, named in `SiliconRow.repairs`, and nothing else is changed. The file is found by path: reading it does
not import the package.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane.model.errors import InvalidSpec, Unsupported

SAMPLE_SHA256 = "4240bfaf555b6f8b2c62512074e5efbb7791cdbb0344b068408f397588499adb"  # aiconfigurator-core 0.12.0
MAX_FILE_BYTES = 256 * 2**20  # the sample has 1.9 MB; a bound, so that a wrong path ends with a line, not in swap
MAX_COUNT = 10_000_000  # of any whole number in a row
MAX_LATENCY_MS = 1e9

_PHASE_COLUMNS = ("batch_size", "num_workers", "tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
_ROLE_DEGREES = tuple(
    f"{role}_{name}" for role in ("prefill", "decode") for name in ("tp_size", "attention_dp_size", "moe_ep_size")
)
_REQUIRED = ("backend", "model_path", "system", "mode", "isl", "osl", "silicon_ttft_ms", "silicon_tpot_ms")
_CONCURRENCY = re.compile(r"(?:^|;)\s*silicon_concurrency=(\d{1,9})\s*(?:;|$)")
_WIP = re.compile(r"(?:^|;)\s*wip=True\s*(?:;|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Parallel degrees of one engine as deployed, after the repairs."""

    tensor_parallel: int
    pipeline_parallel: int
    attention_data_parallel: int
    moe_tensor_parallel: int
    moe_expert_parallel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One role of a disaggregated row. None: the row does not say."""

    shape: Shape | None
    workers: int | None
    batch_per_rank: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiliconRow:
    """One measurement. Names of model, system and backend are as filed; lengths are tokens.

    `concurrency` counts clients of the closed loop over all replicas. `gemm_quant` and `moe_quant` None: the
    checkpoint's own. `repairs` names what was changed and why (see the functions below).
    """

    line: int
    id: str
    backend: str
    backend_version: str | None
    model: str
    system: str
    precision: str | None
    mode: str  # agg or disagg
    isl: int
    osl: int
    gemm_quant: str | None
    moe_quant: str | None
    shape: Shape | None  # None for disagg rows
    replicas: int
    batch_per_rank: int | None
    concurrency: int | None
    prefill: Phase | None
    decode: Phase | None
    ttft_ms: float
    tpot_ms: float
    work_in_progress: bool
    export: str  # first token of the source column
    role_degrees: tuple[str, ...]  # tp, attention dp and ep of both roles as filed: part of the configuration's name
    repairs: tuple[str, ...]

    @property
    def value_key(self) -> tuple[int, int, str, str]:
        """Equal for repeats of one measurement in several exports."""
        return self.isl, self.osl, f"{self.ttft_ms:.5g}", f"{self.tpot_ms:.5g}"

    @property
    def group_key(self) -> tuple[object, ...]:
        """One configuration; concurrency left out. DeepSeek-V3 and -R1 share shapes and measurements."""
        model = "deepseek-ai/DeepSeek-R1" if self.model == "deepseek-ai/DeepSeek-V3" else self.model
        shape = self.shape
        degrees = (
            (0, 1, 1, 1)
            if shape is None
            else (
                shape.tensor_parallel,
                shape.attention_data_parallel,
                shape.moe_tensor_parallel,
                shape.moe_expert_parallel,
            )
        )
        named = (model, self.system, self.backend, self.mode, self.precision or "", self.isl, self.osl)
        return (*named, *degrees, *self.role_degrees)

    @property
    def engine_key(self) -> tuple[str, str, str]:
        """(backend, system, model): the unit that held-out validation leaves out."""
        return self.backend, self.system, self.model


def sample_path() -> Path:
    """The sample of the installed wheel, found without importing the package. Raises Unsupported when absent."""
    spec = importlib.util.find_spec("aiconfigurator_core")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "systems" / "silicon_sample.csv"
        if path.is_file():
            return path
    raise Unsupported(
        "the measured sample is not installed",
        field="data",
        hint="name a file in its schema, or install the extra: pip install 'trimtab[aiconfigurator]'",
    )


def sha256_of(path: Path) -> str:
    """Of the file's bytes: answers name the data they were scored on."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_silicon(path: Path | None = None) -> tuple[SiliconRow, ...]:
    """All rows in file order, repaired. Raises InvalidSpec naming line and column of the first unusable value."""
    path = sample_path() if path is None else path
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InvalidSpec("file too large", field=str(path), value=size, limit=f"{MAX_FILE_BYTES} bytes")
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _REQUIRED if name not in (reader.fieldnames or ())]
            if missing:
                raise InvalidSpec(
                    f"no column {', '.join(missing)}", field=str(path), limit="the silicon_sample.csv schema"
                )
            return tuple(_row(reader.line_num, fields) for fields in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidSpec(f"cannot be read: {error}", field=str(path)) from error


def distinct(rows: Iterable[SiliconRow]) -> tuple[SiliconRow, ...]:
    """The first row of each measurement: the same run appears in up to three exports, and under two model names."""
    first: dict[tuple[int, int, str, str], SiliconRow] = {}
    for row in rows:
        first.setdefault(row.value_key, row)
    return tuple(first.values())


def repair_parallel(tp: int, dp: int, moe_tp: int, moe_ep: int) -> tuple[tuple[int, int, int, int], str | None]:
    """Degrees as deployed, and the rule that applied.

    Three exports multiply degrees that the same run carries plainly elsewhere (ids say `tp8_ep8` where tp_size is 64):
    P1 tp = k*k, dp 1, moe k x k: really tp k, ep k. P2 tp 1, dp = k*k, moe k x k: dp k, ep k.
    P3 tp = dp = k, moe_tp 1, moe_ep = k*k: tp k, ep k. Blank or zero attention data parallelism is 1.
    """
    if moe_ep > 1 and moe_tp == moe_ep and dp == 1 and tp == moe_ep * moe_ep:
        return (moe_ep, 1, 1, moe_ep), "P1"
    if moe_ep > 1 and moe_tp == moe_ep and tp == 1 and dp == moe_ep * moe_ep:
        return (1, moe_ep, 1, moe_ep), "P2"
    if moe_tp == 1 and tp == dp > 1 and moe_ep == tp * dp:
        return (tp, 1, 1, tp), "P3"
    return (tp, max(dp, 1), max(moe_tp, 1), max(moe_ep, 1)), None


def repair_replicas(clients: int, batch: int) -> int:
    """Engines behind the clients. A few exports file the batch of one engine beside the clients of a whole deployment:
    416 clients and a batch of 13 on two accelerators are 32 engines, not one with 403 requests waiting."""
    return clients // batch if batch and clients % batch == 0 else 1


def repair_quantization(model: str, gemm: str | None, moe: str | None) -> tuple[str | None, str | None, str | None]:
    """gpt-oss is filed as nvfp4; its checkpoints are MXFP4, so the label is dropped: the checkpoint's own."""
    if "gpt-oss" in model and "nvfp4" in (gemm, moe):
        return None, None, "gpt-oss is MXFP4, not NVFP4"
    return gemm, moe, None


def _row(line: int, fields: Mapping[str, str | None]) -> SiliconRow:
    def text(name: str) -> str | None:
        return (fields.get(name) or "").strip() or None

    def count(name: str) -> int | None:
        return _whole(line, name, text(name))

    def named(name: str) -> str:
        found = text(name)
        if found is None or len(found) > 1000:
            raise InvalidSpec("must be filled in", field=f"line {line}, {name}", value=(found or "")[:40])
        return found

    source, model, mode = text("silicon_data_source") or "", named("model_path"), named("mode")
    if mode not in ("agg", "disagg"):
        raise InvalidSpec("unknown mode", field=f"line {line}, mode", value=mode, limit="agg, disagg")
    repairs: list[str] = []
    shape, replicas, batch, roles = None, 1, count("batch_size"), {"prefill": _NO_PHASE, "decode": _NO_PHASE}
    concurrency = _whole(line, "silicon_concurrency", found[1]) if (found := _CONCURRENCY.search(source)) else None
    if mode == "agg":
        dp = count("attention_dp_size")
        degrees = (count("tp_size") or 0, dp or 0, count("moe_tp_size") or 0, count("moe_ep_size") or 0)
        (tp, parallel, moe_tp, moe_ep), rule = repair_parallel(*degrees)
        shape = _shape(tp or 1, count("pp_size"), parallel, moe_tp, moe_ep)
        if not dp:
            repairs.append(f"attention_dp_size {'blank' if dp is None else '0'} read as 1")
        if rule is not None:
            repairs.append(rule)
        if concurrency is None and batch is not None:
            concurrency = batch * parallel
            repairs.append("no concurrency: per-rank batch x attention data parallelism")
        elif rule is None and concurrency is not None and batch:
            replicas = repair_replicas(concurrency, batch * parallel)
            if replicas > 1:
                repairs.append("replicas: clients over the batch of all ranks")
        elif rule == "P2" and concurrency is not None:
            batch = concurrency // parallel
    else:
        roles = {name: _phase(line, fields, name, repairs) for name in ("prefill", "decode")}
    gemm, moe, reason = repair_quantization(model, text("gemm_quant_mode"), text("moe_quant_mode"))
    if reason is not None:
        repairs.append(reason)
    return SiliconRow(
        line=line,
        id=text("id") or f"line-{line}",
        backend=named("backend"),
        backend_version=text("backend_version"),
        model=model,
        system=named("system"),
        precision=text("precision"),
        mode=mode,
        isl=_positive(line, "isl", count("isl")),
        osl=_positive(line, "osl", count("osl")),
        gemm_quant=gemm,
        moe_quant=moe,
        shape=shape,
        replicas=replicas,
        batch_per_rank=batch,
        concurrency=concurrency,
        prefill=roles["prefill"] if mode == "disagg" else None,
        decode=roles["decode"] if mode == "disagg" else None,
        ttft_ms=_latency(line, "silicon_ttft_ms", named("silicon_ttft_ms")),
        tpot_ms=_latency(line, "silicon_tpot_ms", named("silicon_tpot_ms")),
        work_in_progress=_WIP.search(source) is not None,
        export=source.split(";")[0].strip(),
        role_degrees=tuple((fields.get(name) or "").strip() for name in _ROLE_DEGREES),
        repairs=tuple(repairs),
    )


_NO_PHASE = Phase(shape=None, workers=None, batch_per_rank=None)


def _phase(line: int, fields: Mapping[str, str | None], role: str, repairs: list[str]) -> Phase:
    batch, workers, tp, pp, dp, moe_tp, moe_ep = (
        _whole(line, f"{role}_{name}", (fields.get(f"{role}_{name}") or "").strip() or None) for name in _PHASE_COLUMNS
    )
    if tp is None and dp is None:
        return Phase(shape=None, workers=workers or None, batch_per_rank=batch or None)
    degrees, rule = repair_parallel(tp or 0, dp or 0, moe_tp or 0, moe_ep or 0)
    if rule is not None:
        repairs.append(f"{role} {rule}")
    shape = _shape(max(degrees[0], 1), pp, *degrees[1:])
    return Phase(shape=shape, workers=workers or None, batch_per_rank=batch or None)


def _shape(tp: int, pp: int | None, dp: int, moe_tp: int, moe_ep: int) -> Shape:
    return Shape(
        tensor_parallel=tp,
        pipeline_parallel=pp or 1,
        attention_data_parallel=dp,
        moe_tensor_parallel=moe_tp,
        moe_expert_parallel=moe_ep,
    )


def _whole(line: int, name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) > MAX_COUNT:
        raise InvalidSpec(
            "must be a whole number", field=f"line {line}, {name}", value=text[:40], limit=f"0 to {MAX_COUNT}"
        )
    return int(text)


def _positive(line: int, name: str, value: int | None) -> int:
    if not value:
        raise InvalidSpec("must be at least 1", field=f"line {line}, {name}", value=value)
    return value


def _latency(line: int, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_LATENCY_MS:
        raise InvalidSpec(
            "must be a positive number of ms", field=f"line {line}, {name}", value=text[:40], limit=f"{MAX_LATENCY_MS}"
        )
    return value
