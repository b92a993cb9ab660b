"""Why replicas are placed as they are: the deployment's verdicts beside what the pools hold."""

from collections.abc import Sequence

from controlplane.api.documents import DeploymentOut, PlacementExplanation, PoolOut, PoolSupply


def explain(deployment_json: bytes, pool_jsons: Sequence[bytes]) -> PlacementExplanation:
    """The explanation for one deployment; `pool_jsons` are the pools the caller may see."""
    deployment = DeploymentOut.model_validate_json(deployment_json)
    asked = {choice.accelerator for choice in deployment.spec.choices}
    if deployment.status.plan is not None:
        asked |= {
            planned.choice.accelerator
            for candidate in deployment.status.plan.candidates
            for planned in candidate.choices
        }
    ready = next((c for c in deployment.status.conditions if c.type == "Ready"), None)
    return PlacementExplanation(
        reason=ready.reason if ready else deployment.status.reason or "NotYetReconciled",
        message=ready.message if ready else "The operator has not looked at this object yet.",
        replicas=deployment.status.replicas,
        ready_replicas=deployment.status.ready_replicas,
        choices=deployment.status.choices,
        pools=deployment.status.pools,
        supply=[
            _supply(pool)
            for pool in sorted(map(PoolOut.model_validate_json, pool_jsons), key=lambda pool: pool.metadata.name)
            if (pool.status.accelerator or pool.spec.accelerator) in asked
        ],
    )


def _supply(pool: PoolOut) -> PoolSupply:
    ready = next((c for c in pool.status.conditions if c.type == "Ready"), None)
    return PoolSupply(
        pool=pool.metadata.name,
        accelerator=pool.status.accelerator or pool.spec.accelerator,
        free_accelerators=pool.status.free_accelerators,
        largest_free_block=pool.status.largest_free_block,
        quarantined_nodes=pool.status.quarantined_nodes,
        ready=ready is not None and ready.status == "True",
        reason=ready.reason if ready else "NotYetReconciled",
    )
