"""What this installation can run. A plan that needs more is advisory: shown, never among the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.catalog import Accelerator, Engine
from controlplane.model.routers import SPLITS, RouterName


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Capability flags. The defaults are what the operator does by itself: aggregated replicas behind a Service.

    `engines`: installed ones, all of the catalogue when None. `images`: `ENGINE` or `ENGINE/VENDOR` -> image, as the
    operator is told. `split_roles`: engines whose prefill and decode roles the operator renders. `kv_connectors`:
    engines whose KV connector has been set up here.
    """

    engines: frozenset[str] | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    routers: frozenset[RouterName] = frozenset({"service"})
    split_roles: frozenset[str] = frozenset()
    kv_connectors: frozenset[str] = frozenset()

    def why_not_image(self, engine: Engine, accelerator: Accelerator) -> str | None:
        """Why no image of this engine is known for an accelerator; None when there is one."""
        if f"{engine.id}/{accelerator.vendor}" in self.images or engine.id in self.images:
            return None
        if engine.image is None and "cpu" in engine.accelerator_kinds:
            return None  # our own engine: the chart names its image
        if engine.image is None or accelerator.vendor != "nvidia":
            return (
                f"no {engine.id} image for {accelerator.vendor} devices is known to this installation: name one under "
                f"{engine.id}/{accelerator.vendor} in the operator's engine images"
            )
        return None

    def why_not_split(self, prefill: Engine, decode: Engine, router: RouterName) -> str | None:
        """The first thing missing for separate prefill and decode roles; None when this installation has all."""
        for engine in (prefill, decode):
            if not engine.capabilities.pd_split:
                return f"{engine.id} has no separate prefill and decode roles"
            if engine.id not in self.split_roles:
                return f"the operator does not render prefill and decode roles of {engine.id} here"
            if engine.id not in self.kv_connectors:
                return f"no KV connector of {engine.id} is set up here"
        wanted = next((name for name, engine in SPLITS.items() if engine == decode.id), None)
        if wanted is None:
            return f"no router is known that sends requests through prefill and decode replicas of {decode.id}"
        if wanted != router:
            return f"{router} does not send a request to a prefill and then to a decode replica: {wanted} would"
        if wanted not in self.routers:
            return f"{wanted} is not installed here"
        return None
