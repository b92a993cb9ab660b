"""How requests reach the replicas of one endpoint: by a plain Service, or by a router that this installation has."""

from pydantic import Field

from controlplane.model.resource import DnsLabel, Part
from controlplane.model.routers import OFFERED, RouterName, RouterPolicy


class Routing(Part):
    """The router in front of the replicas."""

    router: RouterName = Field(
        default="service",
        description="service: a plain Service, a ready replica at random. The others must be part of this installation; "
        "with roles, the one of the engine: sglang-router or vllm-router.",
    )
    policy: RouterPolicy | None = Field(
        default=None,
        description="By what a router picks a replica: prefix-affinity (default), round-robin or random for sglang-router "
        "and vllm-router; a Service and the inference extension have one policy each.",
    )
    endpoint_picker: DnsLabel | None = Field(
        default=None,
        description="Service of the endpoint picker in this namespace, for gateway-inference-extension. The "
        "deployment's name with -epp when absent, as the extension's own chart calls it.",
    )

    @property
    def picks_by(self) -> RouterPolicy:
        """The policy in force."""
        return self.policy or OFFERED[self.router][0]
