"""What the search needs of the rest of the predictor, as one port. `standard.py` fills it with the real parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from controlplane.model.plans import PlanRequest, Prediction, Role
from tuner.serving.planner.load import Draws
from tuner.serving.planner.shape import Scheduler, Shape, Unit
from tuner.serving.planner.static import Static
from tuner.serving.step.table import Floats, StepTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Memory of one rank. `kv_tokens` is what its KV cache holds; `short_bytes` is above 0 where weights (and the
    longest request) do not fit."""

    kv_tokens: float
    short_bytes: int
    weight_bytes: int
    message: str = ""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Outcome:
    """A replay of one replica, one entry per answered request. `tpot_ms` leaves out answers of one token. `refused`:
    requests that fit no rank's KV cache."""

    ttft_ms: Floats
    tpot_ms: Floats
    refused: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Equal replicas of a deployment."""

    role: Role
    unit: Unit
    replicas: int

    @property
    def units(self) -> int:
        """Accelerators the group takes from its pool."""
        return self.replicas * self.unit.shape.units


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Groups of replicas that serve one endpoint."""

    groups: tuple[Group, ...]

    @property
    def key(self) -> tuple[object, ...]:
        """Total order that does not depend on hashing."""
        return tuple((group.role, group.replicas, *group.unit.key) for group in self.groups)

    @property
    def accelerators(self) -> int:
        """Accelerators of all groups."""
        return sum(group.units for group in self.groups)

    @property
    def label(self) -> str:
        """`4 x vllm TP4 on h100 (h100-sxm-80gb)`, groups joined by `+`."""
        roles = {"aggregated": "", "prefill": " prefill", "decode": " decode"}
        return " + ".join(f"{group.replicas} x {group.unit.shape.label}{roles[group.role]}" for group in self.groups)

    @property
    def cost_per_hour(self) -> float | None:
        """None where a pool has no price."""
        total = 0.0
        for group in self.groups:
            price = group.unit.shape.pool.price_per_accelerator_hour
            if price is None:
                return None
            total += price * group.units
        return total


Progress = Callable[[str, float], None]


class Pieces(Protocol):
    """Every call is a pure function of its arguments. `table` and `sketch` raise Unsupported where there is nothing."""

    def sketch(self, shape: Shape) -> StepTable:
        """A coarse table from the roofline: cheap, for bounds only."""
        ...

    def table(self, shape: Shape) -> StepTable:
        """The table that replays use, corrections included."""
        ...

    def room(self, shape: Shape, scheduler: Scheduler, longest_tokens: int) -> Room:
        """Memory for the KV cache; `longest_tokens`: prompt plus answer of the longest request."""
        ...

    def schedulers(self, shape: Shape) -> list[Scheduler]:
        """Scheduler settings to try, the engine's usual ones first."""
        ...

    def least_watts(self, shape: Shape) -> float:
        """Draw of one accelerator of a running, idle replica, or less."""
        ...

    def replica(self, unit: Unit, role: Role, draws: Draws, load: float, static: Static) -> Outcome:
        """One replica at `load`: requests per second, or clients of a closed loop. `static`: its estimate."""
        ...

    def predict(self, deployment: Deployment, request: PlanRequest, draws: Draws) -> Prediction:
        """The whole deployment under the asked traffic."""
        ...
