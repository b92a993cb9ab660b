"""A planning question in the user's words, before it is read: what a command line or a request says, and what if it said
something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from controlplane.catalog import load
from controlplane.model.errors import InvalidSpec, UnknownName
from tuner.serving.planner.pooltext import parse_pool
from tuner.training.names import gpu_id
from tuner.training.planner.question import FLAGS, NUMBERS, WORDS, PlanQuestion, read_question
from tuner.training.planner.startable import usual_precision

_CHOICES = (*NUMBERS, *FLAGS, *WORDS)
_FIELDS = {
    "gpu": str, "gpus": int, "nic": str, "nics-per-node": int, "gpus-per-node": int, "power-cap": float, "price": float,
    "cross": float,
}  # fmt: skip
_POOL = {
    "gpu": "gpu", "gpus": "gpus", "nic": "nic", "nics-per-node": "nics_per_node", "gpus-per-node": "gpus_per_node",
    "power-cap": "power_cap_w", "price": "price_per_accelerator_hour", "cross": "cross_gb_s",
}  # fmt: skip
WHAT_IF = (
    "gpus=128, gpu=h100, nic=ndr, cross=12.5, power-cap=500, price=2.5, global-batch=512, seq=8192, precision=fp8, framework=fsdp, "
    "pool=NAME=GPU:COUNT[,nic=..], without-pool=NAME, a choice (recompute=none, tp=4,8) or free=CHOICE; several at once: tp=8,pp=8"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """`pools`: as in `predict training`. `fix`: `name=value[,value]` items."""

    model: str
    pools: tuple[Mapping[str, Any], ...]
    global_batch: int
    seq: int | None = None
    precision: str | None = None
    framework: str = "megatron-lm"
    fix: tuple[str, ...] = ()

    def question(self) -> PlanQuestion:
        """What the planner answers. Raises InvalidSpec, UnknownName or Unsupported naming the field."""
        if not self.pools:
            raise InvalidSpec("there is none", field="pools", limit="1 or more", hint="say --gpu and --gpus, or --pool")
        cluster: Any = [dict(pool) for pool in self.pools] if len(self.pools) > 1 else dict(self.pools[0])
        return read_question(
            self.model, cluster, global_batch=self.global_batch, seq=self.seq, precision=self.precision, fix=self.fix,
            framework=self.framework,
        )  # fmt: skip

    def shown(self) -> dict[str, object]:
        """For people."""
        said: dict[str, object] = {"model": self.model, "tokens per sequence": self.seq or "of the model given"}
        for number, pool in enumerate(self.pools):
            words = [f"{pool['gpus']} x {pool['gpu']}"]
            words += [f"{name} {value}" for name, value in pool.items() if name not in ("gpu", "gpus", "name")]
            said[f"pool {pool.get('name', number + 1)}"] = ", ".join(words)
        gpus = [gpu_id(pool["gpu"], field="gpu") for pool in self.pools]
        said |= {
            "sequences per iteration": self.global_batch,
            "precision": self.precision or usual_precision(gpus),
            "framework": self.framework,
        }
        return said | {"choices already made": list(self.fix)}


def training_pool(pool: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a PlannablePool as a pool of a training question. A node has a NIC of its class for every accelerator,
    as nodes for training usually do, unless told otherwise."""
    found = {
        "name": pool["name"], "gpu": pool["accelerator"], "gpus": pool["free"], "gpus_per_node": pool.get("per_node"),
        "nic": pool.get("nic"), "nics_per_node": pool.get("nics_per_node"), "power_cap_w": pool.get("power_cap_w"),
        "price_per_accelerator_hour": pool.get("price_per_accelerator_hour"), "currency": pool.get("currency"),
    }  # fmt: skip
    return with_nics({name: value for name, value in found.items() if value is not None})


def with_nics(pool: dict[str, Any]) -> dict[str, Any]:
    """One NIC for each accelerator of a node, where a class is named and no number."""
    if pool.get("nic") is None or pool.get("nics_per_node") is not None:
        return pool
    usual = load().accelerators[gpu_id(pool["gpu"], field="gpu")].accelerators_per_node or 8
    return {**pool, "nics_per_node": pool.get("gpus_per_node") or max(min(pool["gpus"], usual), 1)}


def changed(asked: Asked, change: str) -> Asked:
    """The question after a change written as WORD=VALUE, or several with commas between them; a pool takes all that
    follows it. Raises InvalidSpec or UnknownName."""
    for one in _changes(change):
        asked = _changed(asked, one)
    return asked


def _changes(text: str) -> list[str]:
    """`tp=4,8,pp=2` as tp=4,8 and pp=2."""
    found: list[str] = []
    for part in text.split(","):
        if found and ("=" not in part or found[-1].partition("=")[0].strip() == "pool"):
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def _changed(asked: Asked, change: str) -> Asked:
    word, equals, value = change.partition("=")
    word = word.strip()
    if not equals or not value:
        raise InvalidSpec("is not a change", field="what-if", value=change[:80], limit=WHAT_IF)
    if word in ("pool", "without-pool"):
        return _pools(asked, word, value)
    if word in _POOL:
        number = value if _FIELDS[word] is str else _number(change, value, whole=_FIELDS[word] is int)
        pools = [{**pool, _POOL[word]: number} for pool in asked.pools]
        if word in ("gpu", "nic", "gpus-per-node"):  # the number of NICs was that of the pool before
            pools = [with_nics({key: item for key, item in pool.items() if key != "nics_per_node"}) for pool in pools]
        if len(pools) > 1 and word in ("gpu", "gpus"):
            raise InvalidSpec("says not which pool", field="what-if", value=change[:80], hint="pool=NAME=GPU:COUNT")
        return replace(asked, pools=tuple(pools))
    if word in ("global-batch", "seq"):
        other: dict[str, Any] = {word.replace("-", "_"): _number(change, value, whole=True)}
        return replace(asked, **other)
    if word == "precision":
        return replace(asked, precision=value)
    if word == "framework":
        return replace(asked, framework=value)
    name = (value if word == "free" else word).strip().replace("-", "_")
    if name not in _CHOICES:
        raise UnknownName(
            f"unknown change {change[:80]!r}", field="what-if", value=change[:80], hint=f"known: {WHAT_IF}"
        )
    others = tuple(item for item in asked.fix if item.partition("=")[0].strip().replace("-", "_") != name)
    return replace(asked, fix=others if word == "free" else (*others, f"{name}={value}"))


def _pools(asked: Asked, word: str, value: str) -> Asked:
    names = [str(pool.get("name", pool["gpu"])) for pool in asked.pools]
    if word == "pool":
        added = training_pool(parse_pool(value, field="what-if", find=gpu_id))
        kept = [pool for pool, name in zip(asked.pools, names, strict=True) if name != added["name"]]
        return replace(asked, pools=(*kept, added))
    if value not in names:
        raise UnknownName("no such pool", field="what-if", value=value[:60], hint=f"known: {', '.join(names)}")
    return replace(asked, pools=tuple(pool for pool, name in zip(asked.pools, names, strict=True) if name != value))


def _number(change: str, text: str, *, whole: bool) -> float | int:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = -1
    if not 0 < value < 1e9:
        raise InvalidSpec("needs a number above 0", field="what-if", value=change[:80])
    return value
